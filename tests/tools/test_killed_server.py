"""Nothing survives the server: no upstream, nothing that an upstream started, however the server ends."""

import signal

import pytest
from harness import components
from harness.components import NODE_FOLDER
from harness.plain_http import post
from harness.processes import descendants, left_after
from harness.server import started, tools_command
from tools.doors import dialect
from tools.mixed import write_manifest

ALL_GONE_WITHIN_S = 5.0


@pytest.fixture
def manifest(tmp_path):
    """Node, Python, and what npx starts, which is a grandchild."""
    npx = {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"], "transport": "stdio"}
    npx |= {"cwd": str(NODE_FOLDER), "env": {"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")}}
    entries = [
        {"name": "npx", "type": "mcp", "mcp_server": npx},
        components.everything().in_manifest("everything"),
        components.time().in_manifest("time"),
    ]
    return write_manifest(tmp_path / "tools.yaml", entries)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left(how, manifest):
    with started(*tools_command(manifest)) as server:
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        dialect(server.url, "read_graph", {})
        dialect(server.url, "echo", {"message": "here"})
        dialect(server.url, "get_current_time", {"timezone": "UTC"})
        below = descendants(server.process.pid)
        for words in ("npx", "server-memory", "server-everything", "mcp-server-time"):
            assert any(words in process.command for process in below), (words, below)
        server.process.send_signal(how)
        server.process.wait(timeout=15)
        assert left_after(below, ALL_GONE_WITHIN_S) == []
