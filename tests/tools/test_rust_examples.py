"""The Rust examples of both doors: what an agent plays wholly over MCP, a trainer sees and scores."""

import os
import subprocess
from pathlib import Path

from harness.server import clean_environment

EXAMPLES = Path(os.environ["OXENV_BIN"]).parent / "examples"


def run(name: str, *arguments: str) -> list[str]:
    command = [str(EXAMPLES / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_an_episode_is_scored_that_an_agent_plays_wholly_over_mcp():
    assert run("scored_episode") == [
        "agent: tools are multiply, submit",
        "agent: the calculator says 391",
        "agent: a call after the end is refused: true",
        "trainer: 2 steps, reward 0.75, done true",
        'trainer: that is made of {"cost":-0.25,"answer":1.0}',
    ]


def test_the_demo_of_both_doors(serve):
    assert run("echo_mcp_demo", serve("echo").url) == [
        'trainer: episode "demo" has begun',
        "agent: tools are echo_message, echo_with_length",
        "agent: the environment says 'Hello MCP!'",
        "agent: the environment says 'Hello again!'",
        "trainer: the agent took 2 steps",
        'trainer: my own step gave {"message":"mine","length":4} and the reward null',
        "trainer: together that is 3 steps of one episode",
    ]
