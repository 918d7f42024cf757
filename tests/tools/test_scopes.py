"""Whose a server over HTTP is that keeps something for each of its sessions: by default each session's
own."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from harness import components, everything
from harness.http_process import mcp_over_http
from harness.plain_http import post
from tools.mixed import write_manifest


@pytest.fixture
def notes() -> Iterator[str]:
    """The URL of a server of notes, written with the Python SDK's FastMCP."""
    with notes_server(everything.free_port()) as url:
        yield url


@contextmanager
def notes_server(port: int) -> Iterator[str]:
    program = Path(__file__).parent / "notes_server.py"
    command = [str(components.venv_program("mcp-server-sqlite", "python")), str(program), str(port)]
    with mcp_over_http(command, port) as url:
        yield url


class Rollout:
    """A session of oxenv."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/sessions/{post(f'{url}/sessions', {}, timeout_s=60.0).json()['session_id']}"

    def reset(self) -> None:
        assert post(f"{self.url}/reset", {}, timeout_s=60.0).status == 200

    def call(self, tool: str, **arguments: object) -> str:
        action = {"type": "call_tool", "tool_name": tool, "arguments": arguments}
        observation = post(f"{self.url}/step", {"action": action}, timeout_s=60.0).json()["observation"]
        assert observation["error"] is None, observation
        return observation["result"]["content"][0]["text"]


def entry(url: str, **more: object) -> dict:
    return {"name": "notes", "type": "mcp", "mcp_server": {"url": url, "transport": "http"}, **more}


def read_by_another(url: str) -> tuple[str, str]:
    """What one rollout reads after another one kept a note: before its reset and after it."""
    one, other = Rollout(url), Rollout(url)
    for rollout in (one, other):
        rollout.reset()
    assert one.call("keep", note="the answer of one") == "kept"
    before = other.call("read")
    other.reset()
    assert one.call("read") == "the answer of one"
    return before, other.call("read")


def test_without_a_scope_no_rollout_reads_the_notes_of_another(tmp_path, notes, serve_tools):
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [entry(notes)]))
    assert read_by_another(server.url) == ("nothing", "nothing")
    assert "scope: session, because its server gives sessions of its own" in server.logged()


def test_a_written_scope_is_kept_to(tmp_path, notes, serve_tools):
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [entry(notes, scope="server")]))
    assert read_by_another(server.url) == ("the answer of one", "the answer of one")


def test_in_production_all_share_it_and_the_log_says_so(tmp_path, notes, serve_tools):
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [entry(notes)]), "--mode", "production")
    assert "scope: server, because none is written: all sessions share it" in server.logged()
