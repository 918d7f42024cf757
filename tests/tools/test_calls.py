"""The same call through every door gives what the server gives when it is asked directly."""

import asyncio

import pytest
from harness.plain_http import get
from harness.sdk_clients import as_json, fastmcp_client, python_sdk, typescript
from tools.doors import DOORS, Answer, dialect, journal, newest_mcp, step, stock


@pytest.fixture(scope="session")
def expected(mixed, directly) -> list[Answer]:
    """What the servers themselves answer to the calls, in order."""
    return [Answer.of_mcp(directly(call.toolset).call(call.tool, call.arguments)) for call in mixed.calls()]


@pytest.mark.parametrize("door", DOORS)
def test_a_door(door, server, mixed, expected):
    got = [DOORS[door](server.url, call.name, call.arguments) for call in mixed.calls()]
    assert got == expected


def test_the_journals_spelling(server, mixed, expected):
    for call, answer in zip(mixed.calls(), expected):
        result = journal(server.url, call.name, call.arguments)
        # A result without structured content is its text, so that it is not lost.
        assert result == (answer.text if answer.structured is None else answer.structured), call


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_python_sdk(mode, server, mixed, expected):
    async def calls() -> list[Answer]:
        async with python_sdk(f"{server.url}/mcp", mode=mode) as client:
            results = [await client.call_tool(call.name, call.arguments) for call in mixed.calls()]
            return [Answer.of_mcp(as_json(result)) for result in results]

    assert asyncio.run(calls()) == expected


def test_fastmcp(server, mixed, expected):
    async def calls() -> list[Answer]:
        async with fastmcp_client(f"{server.url}/mcp") as client:
            results = [await client.call_tool_mcp(call.name, call.arguments) for call in mixed.calls()]
            return [Answer.of_mcp(as_json(result)) for result in results]

    assert asyncio.run(calls()) == expected


def test_typescript(server, mixed, expected):
    operations = [["callTool", {"name": call.name, "arguments": call.arguments}] for call in mixed.calls()]
    # The list comes first, because this client checks structured content against the listed schemas.
    _, *results = typescript(f"{server.url}/mcp", [["listTools"], *operations])["results"]
    assert [Answer.of_mcp(result) for result in results] == expected


def test_files_live_in_the_sessions_workspace(server):
    directories = stock(server.url, "list_allowed_directories", {}).text
    workspace = directories.splitlines()[-1]
    note = {"path": f"{workspace}/note.txt"}
    assert not newest_mcp(server.url, "write_file", note | {"content": "kept"}).is_error
    assert "kept" in dialect(server.url, "read_text_file", note).text
    outside = newest_mcp(server.url, "read_text_file", {"path": "/etc/hostname"})
    assert outside.is_error and "denied" in outside.text


def test_a_server_keeps_its_state_between_calls(server):
    thought = {"thought": "one", "nextThoughtNeeded": True, "thoughtNumber": 1, "totalThoughts": 2}
    first = newest_mcp(server.url, "sequentialthinking", thought).structured
    second = newest_mcp(server.url, "sequentialthinking", thought | {"thoughtNumber": 2}).structured
    assert second["thoughtHistoryLength"] == first["thoughtHistoryLength"] + 1


def test_calls_through_both_doors_are_steps_of_one_session(server):
    def steps() -> int:
        return get(f"{server.url}/state").json()["step_count"]

    before = steps()
    newest_mcp(server.url, "echo", {"message": "agent"})
    reply = step(server.url, {"type": "call_tool", "tool_name": "echo", "arguments": {"message": "trainer"}})
    assert (reply["reward"], reply["done"]) == (None, False)
    assert steps() == before + 2


def test_github_fails_cleanly(server):
    """It lists offline and cannot be reached: the tool's own error, no transport's, and no reward."""
    arguments = {"query": "oxenv"}
    action = {"type": "call_tool", "tool_name": "search_repositories", "arguments": arguments}
    reply = step(server.url, action)
    assert (reply["reward"], reply["done"]) == (None, False)
    assert "fetch failed" in str(reply["observation"])
    answer = newest_mcp(server.url, "search_repositories", arguments)
    assert answer.is_error and "fetch failed" in answer.text
    # The server is none the worse for it.
    assert "fetch failed" in newest_mcp(server.url, "search_repositories", arguments).text
