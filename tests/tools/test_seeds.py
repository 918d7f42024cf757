"""`${seed}` is the episode's: a simulator of tools gives the same world for the same seed, and another for
another."""

from pathlib import Path

import pytest
from harness import components
from harness.plain_http import get, post
from tools.mixed import write_manifest

SIMULATOR = Path(__file__).parent / "seed_server.py"


@pytest.fixture
def manifest(tmp_path):
    server = {
        "command": str(components.venv_program("mcp-server-sqlite", "python")),
        "args": [str(SIMULATOR)],
        "env": {"SIMULATOR_SEED": "${seed}"},
    }
    entry = {"name": "simulator", "type": "mcp", "mcp_server": server, "on_fork": "replay"}
    return write_manifest(tmp_path / "tools.yaml", [entry])


def call(url: str, tool: str) -> str:
    action = {"type": "call_tool", "tool_name": tool, "arguments": {}}
    observation = post(f"{url}/step", {"action": action}, timeout_s=60.0).json()["observation"]
    assert observation["error"] is None, observation
    return observation["result"]["content"][0]["text"]


def reset(url: str, **data: object) -> None:
    assert post(f"{url}/reset", data, timeout_s=60.0).status == 200


def test_every_episode_has_the_world_of_its_seed(manifest, serve_tools):
    server = serve_tools(manifest)
    made = post(f"{server.url}/sessions", {}, timeout_s=60.0).json()
    session = f"{server.url}/sessions/{made['session_id']}"
    worlds = []
    for seed in (7, 8, 7):
        reset(session, seed=seed)
        assert call(session, "told") == str(seed)
        worlds.append([call(session, "draw") for _ in range(3)])
    assert worlds[0] == worlds[2] != worlds[1]

    # Without a seed each episode has one of its own; a copy goes on in the same world.
    told = []
    for _ in range(2):
        reset(session)
        told.append(call(session, "told"))
    assert len({*told, "7", str(get(session).json()["seed"])}) == 4
    drawn = call(session, "draw")
    fork = post(f"{session}/fork", {"n": 1}, timeout_s=60.0).json()["sessions"][0]
    copy = f"{server.url}/sessions/{fork['session_id']}"
    assert call(copy, "told") == told[1]
    following = call(session, "draw")
    assert following != drawn and call(copy, "draw") == following
