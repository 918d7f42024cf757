"""Replays the recordings against the built binary; only the allow-list may differ."""

import pytest
from transcripts.allow import AllowList, Recording
from transcripts.replay import load, replay

# The recordings were made with room for two sessions.
FLAGS = ("--max-sessions", "2", "--queue-timeout", "0s")


@pytest.mark.parametrize("kind", ["http", "ws"])
def test_as_0_10_0_was_recorded(serve, kind):
    newest = Recording(f"openenv-0.10.0-{kind}", load(f"openenv-0.10.0-{kind}"))
    live = replay(serve("echo", *FLAGS).url, newest.name)
    verdict = AllowList.load().judge(newest, live)
    assert not verdict.unexplained and not verdict.unused, str(verdict)


@pytest.mark.parametrize("kind", ["http", "ws"])
def test_as_0_3_0_was_recorded_but_for_additions(serve, kind):
    oldest = Recording(f"openenv-core-0.3.0-{kind}", load(f"openenv-core-0.3.0-{kind}"))
    newest = Recording(f"openenv-0.10.0-{kind}", load(f"openenv-0.10.0-{kind}"))
    live = replay(serve("echo", *FLAGS).url, oldest.name)
    verdict = AllowList.load().judge(oldest, live, newest)
    assert not verdict.unexplained and not verdict.unused, str(verdict)
