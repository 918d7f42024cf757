"""`from_docker_image` of the stock clients: it starts our image, plays an episode and stops it in its
time."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from docker.containers import count
from harness.server import REPOSITORY

VENVS = Path(os.environ.get("OXENV_VENVS", REPOSITORY / "target" / "venvs"))
# After 10 s the client's own `docker stop` raises, and nothing catches it.
STOP_S = 5.0


@pytest.mark.parametrize("version", ["openenv-0.10.0", "openenv-core-0.2.3"])
def test_from_docker_image(version):
    python = VENVS / version / "bin" / "python"
    assert python.is_file(), f"{python} is not there: scripts/test installs it"
    program = Path(__file__).with_name("stock_episode.py")
    # Its folder must not be where modules are looked for: it has one called `docker`.
    done = subprocess.run([str(python), "-P", str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["ready"] == {"metadata": {"status": "ready", "message": "Echo environment ready!"}}
    assert (seen["said"], seen["steps"], seen["ran"], seen["left"]) == (["one", "zwei"], 2, 1, 0)
    assert seen["stop_s"] < STOP_S
    assert count() == 0
