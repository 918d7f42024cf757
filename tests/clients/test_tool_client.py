"""`MCPToolClient` of both versions in simulation mode.

0.10.0 makes a session over `POST /mcp`, attaches its socket to it and calls tools over
HTTP; 0.2.3 does everything as steps on its socket.
"""

import asyncio

import pytest
from clients.stock import NEWEST, newest_only, oldest_only, run
from openenv.core import MCPToolClient
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation, ToolErrorType


def test_list_and_call(serve):
    server = serve("echo")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset()
            tools = await env.list_tools()
            assert [tool.name for tool in tools] == ["echo_message", "echo_with_length"]
            assert all(tool.description and tool.input_schema["required"] == ["message"] for tool in tools)
            assert await env.has_tool("echo_message") and not await env.has_tool("nope")
            assert await env.call_tool("echo_message", message="Hello!") == "Hello!"
            assert await env.call_tool("echo_with_length", message="abc") == {"message": "abc", "length": 3}

    run(session())


def test_sync(serve):
    server = serve("echo")
    with MCPToolClient(base_url=server.url).sync() as env:
        env.reset()
        assert [tool.name for tool in env.list_tools()] == ["echo_message", "echo_with_length"]
        assert env.call_tool("echo_message", message="sync") == "sync"


def test_calls_are_steps_of_the_session_that_the_socket_sees(serve):
    server = serve("echo")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset(episode_id="shared")
            before = (await env.state()).step_count
            for number in range(3):
                await env.call_tool("echo_message", message=str(number))
            after = await env.state()
            assert (before, after.step_count, after.episode_id) == (0, 3, "shared")

    run(session())


def test_typed_steps(serve):
    server = serve("echo")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            result = await env.step(
                CallToolAction(tool_name="echo_with_length", arguments={"message": "Test"})
            )
            assert isinstance(result.observation, CallToolObservation)
            assert result.observation.error is None
            assert result.observation.result["data"] == {"message": "Test", "length": 4}
            unknown = await env.step(CallToolAction(tool_name="nope", arguments={}))
            assert unknown.observation.error.error_type == ToolErrorType.TOOL_NOT_FOUND
            missing = await env.step(CallToolAction(tool_name="echo_message", arguments={}))
            assert missing.observation.error.error_type == ToolErrorType.INVALID_ARGS

    run(session())


@pytest.mark.parametrize(
    ("tool", "arguments"), [("nope", {}), ("echo_message", {}), ("echo_message", {"message": 5})]
)
def test_a_failed_call_raises_and_the_session_goes_on(serve, tool, arguments):
    server = serve("echo")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            with pytest.raises(RuntimeError, match=f"Tool '{tool}' failed"):
                await env.call_tool(tool, **arguments)
            assert await env.call_tool("echo_message", message="still here") == "still here"

    run(session())


def test_a_typed_environment_has_no_tools(serve):
    server = serve("grid_world")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            if NEWEST:
                assert await env.list_tools() == []
            with pytest.raises(RuntimeError):
                await env.call_tool("echo_message", message="x")
            # The session survives both, and its own actions work.
            await env.reset()
            assert (await env.state()).step_count == 0

    run(session())


@oldest_only("the newer client always works so")
def test_tools_over_http_as_0_2_3_can_be_told_to(serve):
    server = serve("echo", "--max-sessions", "1", "--queue-timeout", "0s")

    async def session():
        # Two rounds in one slot: leaving closes the session that the first call made.
        for _ in range(2):
            env = MCPToolClient(base_url=server.url)
            env.use_production_mode = True
            assert [tool.name for tool in await env.list_tools()] == ["echo_message", "echo_with_length"]
            assert await env.call_tool("echo_message", message="over http") == "over http"
            with pytest.raises(RuntimeError, match="Tool 'nope' failed"):
                await env.call_tool("nope")
            await env.close()

    run(session())


@newest_only("the older client does not attach")
def test_two_clients_have_two_sessions_and_release_them(serve):
    server = serve("echo", "--max-sessions", "2", "--queue-timeout", "0s")

    async def sessions():
        for _ in range(5):
            async with MCPToolClient(base_url=server.url) as one, MCPToolClient(base_url=server.url) as two:
                await one.reset()
                await two.reset()
                await one.call_tool("echo_message", message="x")
                assert ((await one.state()).step_count, (await two.state()).step_count) == (1, 0)
            # Leaving closes the sessions: the next round finds both slots free.

    run(sessions())


@newest_only("the older client goes on reading its old socket")
def test_after_a_timeout_the_client_attaches_to_its_session_again(serve):
    server = serve("echo", "--max-sessions", "1", "--queue-timeout", "0s")

    async def session():
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset(episode_id="kept")
            await env.call_tool("echo_message", message="x")
            patience, env._message_timeout = env._message_timeout, 0.0
            with pytest.raises(asyncio.TimeoutError):
                await env.state()
            env._message_timeout = patience
            state = await env.state()
            assert (state.episode_id, state.step_count) == ("kept", 1)

    run(session())
