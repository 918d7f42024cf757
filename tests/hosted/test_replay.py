"""Records of environments written in Python are replayed with the environment that they are of."""

import re
import subprocess
import sys

from clients.stock import run
from harness.server import binary, running
from openenv.core import GenericEnvClient

from hosted.conftest import ENVIRONMENTS, hosted_command

BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"
REPLAY_TIMEOUT_S = 120.0


def replay(*words):
    command = [str(binary()), "replay", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=REPLAY_TIMEOUT_S)


def test_a_replay_says_that_it_needs_the_environment_s_name(tmp_path):
    records = str(tmp_path)
    with running(hosted_command("kinds:Dice", "--record", records), BANNER) as server:

        async def play():
            async with GenericEnvClient(base_url=server.url) as env:
                await env.reset()
                await env.step({"sides": 6})

        run(play())
    asked = replay(records)
    assert asked.returncode == 1
    hint = "(one of a manifest needs --tools FILE, one written in Python --environment DIR or "
    assert f"its environment 'Dice' cannot be made {hint}--environment module:Class)" in asked.stdout
    python = ["--python", sys.executable, "--env", f"PYTHONPATH={ENVIRONMENTS}"]
    done = replay(records, "--environment", "kinds:Dice", *python)
    assert done.returncode == 0 and re.search("1 of 1 the same", done.stdout), done.stdout + done.stderr
