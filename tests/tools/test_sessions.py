"""Sessions of one server are apart: workspaces, processes, counts. What ends with a session ends all of
it."""

import asyncio

import pytest
from harness import components
from harness.mcp_raw import stateless
from harness.plain_http import exchange, get, post
from harness.processes import descendants, left_after
from harness.sdk_clients import as_json, python_sdk
from tools.doors import Answer
from tools.mixed import write_manifest

GONE_WITHIN_S = 10.0


@pytest.fixture
def manifest(tmp_path, remote):
    """One toolset of the session, one of the server."""
    of_the_server = {"name": "remote", "type": "mcp", "mcp_server": {"url": remote, "transport": "http"}}
    return write_manifest(
        tmp_path / "tools.yaml", [components.filesystem("${workspace}").in_manifest("files"), of_the_server]
    )


def agent(mcp_url: str, tool: str, **arguments: object) -> Answer:
    return Answer.of_mcp(stateless(mcp_url, "tools/call", {"name": tool, "arguments": arguments})["result"])


def test_two_sessions_share_nothing(manifest, serve_tools):
    server = serve_tools(manifest)
    made = [post(f"{server.url}/sessions", {}, timeout_s=60.0).json() for _ in range(2)]
    first, second = (session["mcp_url"] for session in made)
    folders = [agent(url, "list_allowed_directories").text.splitlines()[-1] for url in (first, second)]
    assert folders[0] != folders[1]
    assert not agent(first, "write_file", path=f"{folders[0]}/mine.txt", content="first").is_error
    assert "first" in agent(first, "read_text_file", path=f"{folders[0]}/mine.txt").text
    assert agent(second, "read_text_file", path=f"{folders[0]}/mine.txt").is_error
    counts = [
        get(f"{server.url}/sessions/{session['session_id']}/state").json()["step_count"] for session in made
    ]
    assert counts == [3, 2]

    # The end of a session is the end of its processes, and of nobody else's.
    before = [process for process in descendants(server.process.pid) if folders[0] in process.command]
    assert before
    assert exchange("DELETE", f"{server.url}/sessions/{made[0]['session_id']}").status in (200, 204)
    assert left_after(before, GONE_WITHIN_S) == []
    assert folders[1] in agent(second, "list_allowed_directories").text


def test_production_gives_each_handshake_a_session(manifest, serve_tools):
    server = serve_tools(manifest, "--mode", "production")

    async def use() -> tuple[list[str], str, str]:
        async with python_sdk(f"{server.url}/mcp", mode="legacy") as one:
            async with python_sdk(f"{server.url}/mcp", mode="legacy") as other:
                tools = [tool.name for tool in (await one.list_tools()).tools]
                folders = [
                    Answer.of_mcp(as_json(await client.call_tool("list_allowed_directories", {}))).text
                    for client in (one, other)
                ]
                return tools, *folders

    tools, mine, theirs = asyncio.run(use())
    assert {"echo", "read_text_file"} <= set(tools)
    assert mine != theirs
    # Without a session there are the tools that need none.
    bare = [tool["name"] for tool in stateless(f"{server.url}/mcp", "tools/list")["result"]["tools"]]
    assert "echo" in bare and "read_text_file" not in bare
    assert "over" in agent(f"{server.url}/mcp", "echo", message="over").text
