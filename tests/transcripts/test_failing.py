"""Replays recorded calls of a failing tool against the built binary, with the recorded tools as its
upstream."""

import json
import sys
from pathlib import Path

import pytest
from harness.server import running, tools_command
from transcripts.allow import AllowList, Recording, Verdict
from transcripts.replay import load, replay

pytest.importorskip("fastmcp", reason="the upstream runs in the environment of openenv 0.10.0")

TOOLS = Path(__file__).parents[1] / "reference" / "failing_tools.py"
VERSIONS = ("openenv-core-0.2.3", "openenv-core-0.3.0", "openenv-0.10.0")


@pytest.mark.parametrize("kind", ["http", "ws"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_failing_tool_is_told_as_recorded(tmp_path, version, kind):
    server = {"command": sys.executable, "args": [str(TOOLS)]}
    manifest = tmp_path / "tools.json"
    tool = {"name": "failing", "type": "mcp", "mcp_server": server}
    manifest.write_text(json.dumps({"version": "1.0", "tools": [tool]}))
    recording = Recording(f"{version}-failing-{kind}", load(f"{version}-failing-{kind}"))
    newest = Recording(f"openenv-0.10.0-failing-{kind}", load(f"openenv-0.10.0-failing-{kind}"))
    with running(*tools_command(manifest)) as ours:
        live = replay(ours.url, recording.name)
    verdict = AllowList.load().judge(recording, live, None if recording == newest else newest)
    # What is wanted of all exchanges need not be in these few.
    unused = [entry for entry in verdict.unused if "-failing-" in entry.transcript]
    assert not verdict.unexplained and not unused, str(Verdict(verdict.unexplained, unused))
