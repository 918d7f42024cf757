"""The `curl` walk of the RFC-003 journal ("Testing Endpoints"), as printed but for the port."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.server import clean_environment

WALK = Path(__file__).with_name("journal_walk.sh")
TOOLS = ["echo_message", "echo_with_length"]


def commands(port: int) -> list[str]:
    """Each command of the walk, in order."""
    printed = WALK.read_text().replace("http://localhost:8000", f"http://localhost:{port}")
    return [f"curl {rest}" for rest in printed.split("\ncurl ")[1:]]


def walk(port: int) -> list[dict]:
    """The replies, with what curl itself says kept apart."""
    replies = []
    for command in commands(port):
        finished = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60, env=clean_environment()
        )
        assert finished.returncode == 0, (command, finished.stderr)
        replies.append(json.loads(finished.stdout))
    return replies


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_walk_of_the_journal(serve):
    health, reset, listed, called, mcp_listed, mcp_called = walk(serve("echo").port)
    assert health == {"status": "healthy"}
    assert (reset["reward"], reset["done"]) == (0.0, False)
    assert [tool["name"] for tool in listed["observation"]["metadata"]["tools"]] == TOOLS
    for tool in listed["observation"]["metadata"]["tools"]:
        assert set(tool) == {"name", "description", "input_schema"}
        assert tool["input_schema"]["properties"]["message"]["type"] == "string"
    assert called["observation"]["metadata"]["result"] == "Hello MCP!"
    assert called["observation"]["metadata"].get("error") is None
    assert mcp_listed["id"] == 1
    assert [tool["name"] for tool in mcp_listed["result"]["tools"]] == TOOLS
    assert mcp_called["id"] == 2
    assert mcp_called["result"]["data"] == "Hello from MCP endpoint!"
    assert mcp_called["result"]["content"][0]["text"] == "Hello from MCP endpoint!"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_journals_error_is_its_message(serve):
    """An unknown tool keeps the flow of steps: HTTP 200 and `metadata.error`."""
    server = serve("echo")
    body = '{"action": {"type": "CallToolAction", "tool_name": "nope", "parameters": {}}}'
    command = [
        "curl",
        "-s",
        "-X",
        "POST",
        f"{server.url}/step",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
    metadata = json.loads(finished.stdout)["observation"]["metadata"]
    assert isinstance(metadata["error"], str) and "nope" in metadata["error"]
