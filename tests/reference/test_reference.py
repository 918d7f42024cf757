"""Proves the replay harness: the real reference answers as the recording says.

Only what the installed libraries word differently from the recorded ones may differ.
"""

import sys
from pathlib import Path

import pytest
from harness.server import running
from transcripts.compare import differences
from transcripts.replay import load, replay

pytest.importorskip("fastmcp", reason="the reference runs in the environment of openenv 0.10.0")

FOLDER = Path(__file__).parent
BANNER = r"echo_openenv: serving echo on (http://127\.0\.0\.1:\d+)"


@pytest.mark.parametrize(
    ("launcher", "transcript"),
    [
        ("echo_openenv.py", "openenv-0.10.0-http"),
        ("echo_openenv.py", "openenv-0.10.0-ws"),
        ("failing_openenv.py", "openenv-0.10.0-failing-http"),
        ("failing_openenv.py", "openenv-0.10.0-failing-ws"),
    ],
)
def test_the_reference_answers_as_recorded(launcher, transcript):
    with running([sys.executable, str(FOLDER / launcher)], BANNER) as server:
        live = replay(server.url, transcript)
    found = differences(transcript, load(transcript), live)
    assert not found, "\n".join(map(str, found))
