"""What tools come from: MCP servers over stdio and HTTP, and functions of this process."""

import gc
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, finished, program
from harness import components
from test_environments import serving

from oxenv import (
    Closed,
    InvalidArguments,
    LocalMCPServer,
    MCPClient,
    MCPClientManager,
    OxenvError,
    ToolEnabledEnvironment,
    ToolNotFound,
    compose_servers,
)

TIME_TOOLS = ["get_current_time", "convert_time"]
ECHO_TOOLS = ["echo_message", "echo_with_length"]
PYTHON_TOOLS = '''
import os

def secret() -> str:
    """Tells a secret."""
    return os.environ["SECRET"]
'''


def names(source: Any) -> list[str]:
    return [tool.name for tool in source.list_tools()]


def test_stdio_http_and_python_files_in_one_manifest(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools.py").write_text(PYTHON_TOOLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_SECRET", "of the test")
    python = {"transport": "python", "path": "tools.py", "env": {"SECRET": "${A_SECRET}"}}
    config = {
        "version": "1.0",
        "tools": [
            components.time().in_manifest("time"),
            {"name": "echo", "mcp_server": {"transport": "http", "url": serve("echo").url + "/mcp"}},
            {"name": "own", "mcp_server": python},
            {"name": "off", "enabled": False, "mcp_server": {"command": "${NOT_SET}"}},
        ],
    }
    # A dictionary, with paths relative to the working directory.
    with MCPClientManager(config) as manager:
        assert [tool.name for tool in manager.get_available_tools()] == [*TIME_TOOLS, *ECHO_TOOLS, "secret"]
        called = manager.call_tool(tool_name="get_current_time", arguments={"timezone": "UTC"})
        assert json.loads(called.content[0]["text"])["timezone"] == "UTC"
        assert manager.call_tool("echo_message", {"message": "hi"}).data == "hi"
        assert manager.call_tool("secret").text == "of the test"
        assert manager.problems == []
        with pytest.raises(ToolNotFound, match="nothing"):
            manager.call_tool("nothing")
        with pytest.raises(InvalidArguments, match="timezone"):
            manager.call_tool("get_current_time", {})
        # A tool that says that it failed is a result: agents have to see it.
        failed = manager.call_tool("get_current_time", {"timezone": "Nowhere"})
        assert failed.is_error and "Nowhere" in failed.text
    manager.close()
    with pytest.raises(Closed, match="make another one"):
        manager.list_tools()


def test_what_cannot_be_started_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = {"name": "missing", "mcp_server": {"command": "no-such-command"}}
    config = {"tools": [missing, components.time().in_manifest("time")]}
    with caplog.at_level(logging.WARNING, "oxenv"), MCPClientManager(config) as manager:
        assert names(manager) == TIME_TOOLS
        assert [problem["toolset"] for problem in manager.problems] == ["missing"]
        assert "toolset 'missing' is not available" in caplog.text and "no-such-command" in caplog.text
        manager.reset(seed=3)
        assert [problem["toolset"] for problem in manager.problems] == ["missing"]


def test_a_wrong_manifest_is_told_with_its_place(tmp_path: Path) -> None:
    manifest = tmp_path / "tools.yaml"
    manifest.write_text("tools:\n  - name: x\n    comand: y\n")
    with MCPClientManager(manifest) as manager, pytest.raises(OxenvError) as told:
        manager.list_tools()
    assert "comand" in f"{told.value} {told.value.data}"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "tools.yaml"
    path.write_text(json.dumps({"tools": [components.time().in_manifest("time")]}))
    return path


def test_a_manager_that_is_collected_ends_its_servers(manifest: Path) -> None:
    manager = MCPClientManager(manifest)
    assert not serving(manifest)
    assert names(manager) == TIME_TOOLS and serving(manifest)
    del manager
    gc.collect()
    eventually(lambda: not serving(manifest))


KILLED = """
import os, signal, sys
from oxenv import MCPClientManager
manager = MCPClientManager(sys.argv[1])
print(len(manager.list_tools()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_servers_end_with_a_process_that_is_killed(manifest: Path) -> None:
    assert finished(program(KILLED, str(manifest)), -9) == "2\n"
    eventually(lambda: not serving(manifest))


def calculator() -> LocalMCPServer:
    server = LocalMCPServer("calculator")

    @server.tool
    def add(a: int, b: int | None = None) -> int:
        return a + (b or 0)

    @server.tool(name="shout", description="Shouts.")
    async def in_capitals(text: str) -> dict[str, str]:
        return {"text": text.upper()}

    return server


def test_functions_as_tools() -> None:
    server = calculator()
    client = MCPClient(server)
    described = {tool.name: tool.description for tool in client.list_tools()}
    assert described == {"add": "", "shout": "Shouts."}
    added = client.call_tool("add", {"a": 1, "b": 2})
    assert (added.data, added.text, added.structured_content) == (3, "3", {"result": 3})
    shouted = client.call_tool("shout", {"text": "hi"})
    assert (shouted.data, shouted.content[0]["text"]) == ({"text": "HI"}, '{"text":"HI"}')
    assert server.get_callables()["add"](1, 1) == 2
    with pytest.raises(ToolNotFound, match="unknown tool 'subtract'; there are: add, shout"):
        client.call_tool("subtract")
    wrong = ["'a' is missing", "'b' is str, and not integer or null", "'c' is no argument; there are: a, b"]
    with pytest.raises(InvalidArguments, match=f"tool 'add': {'; '.join(wrong)}"):
        client.call_tool("add", {"b": "2", "c": 1})
    # The list is kept until it is asked for anew.
    server.tool(lambda: None, name="later")
    assert (names(client), len(client.list_tools(refresh=True))) == (["add", "shout"], 3)
    with pytest.raises(ValueError, match="has a tool 'later' already"):
        server.tool(lambda: None, name="later")
    with pytest.raises(TypeError, match=r"'\*words' cannot be given by name"):
        server.tool(lambda *words: None, name="words")


def test_servers_are_composed() -> None:
    other = LocalMCPServer("other")
    other.tool(lambda: "the other", name="add")
    other.tool(lambda: "more", name="more")
    composed = compose_servers(calculator(), other)
    assert names(composed) == ["add", "shout", "other__add", "more"] == list(composed.get_callables())
    assert composed.call_tool("other__add").data == "the other"
    assert composed.call_tool("add", {"a": 1}).data == 1


def test_a_name_belongs_to_the_client_before_the_manifest(manifest: Path) -> None:
    own = LocalMCPServer("own")
    own.tool(lambda: "own", name="convert_time")
    with ToolEnabledEnvironment(manifest, mcp_client=own) as env:
        assert [tool.name for tool in env.get_available_tools()] == ["convert_time", "get_current_time"]
        assert env.call_tool("convert_time").data == "own"
        assert "UTC" in env.call_tool("get_current_time", {"timezone": "UTC"}).text
        with pytest.raises(ToolNotFound, match="there are: convert_time, get_current_time"):
            env.call_tool("nothing")


def test_a_client_of_an_endpoint(serve: Any) -> None:
    client = MCPClient(serve("echo").url + "/mcp")
    assert names(client) == ECHO_TOOLS
    assert client.call_tool("echo_message", {"message": "hi"}).data == "hi"
    assert client.get_callables() == {}
    client.close()
