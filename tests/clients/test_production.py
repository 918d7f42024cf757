"""Production mode: agents call tools, and nobody controls episodes."""

import pytest
from clients.stock import ask, call, newest_only, oldest_only, open_socket, run
from harness.plain_http import exchange, get, post, rpc
from openenv.core import GenericEnvClient, MCPToolClient
from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction

PRODUCTION = ("--mode", "production")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reset"),
        ("POST", "/step"),
        ("GET", "/state"),
        ("POST", "/sessions/any/reset"),
        ("POST", "/sessions/any/step"),
        ("GET", "/sessions/any/state"),
    ],
)
def test_there_are_no_control_routes(serve, method, path):
    server = serve("echo", *PRODUCTION)
    reply = exchange(
        method, server.url + path, {"content-type": "application/json"}, b"{}" if method == "POST" else None
    )
    assert (reply.status, reply.json()) == (404, {"detail": "Not Found"})


def test_operations_stay(serve):
    server = serve("echo", *PRODUCTION)
    assert get(f"{server.url}/health").json() == {"status": "healthy"}
    for path in ("/ready", "/metadata", "/schema", "/openapi.json"):
        assert get(server.url + path).status == 200, path
    assert "/reset" not in get(f"{server.url}/openapi.json").json()["paths"]


@newest_only("it lists and calls over /mcp with an attached socket")
def test_tool_client_of_0_10_0(serve):
    server = serve("echo", *PRODUCTION)

    async def agent():
        async with MCPToolClient(base_url=server.url) as env:
            assert [tool.name for tool in await env.list_tools()] == ["echo_message", "echo_with_length"]
            assert await env.call_tool("echo_message", message="Hello!") == "Hello!"
            with pytest.raises(RuntimeError, match="Tool 'nope' failed"):
                await env.call_tool("nope")
            with pytest.raises(RuntimeError, match="EXECUTION_ERROR"):
                await env.reset()
            assert await env.call_tool("echo_message", message="on") == "on"

    run(agent())


@oldest_only("its only way to tools is steps on the socket")
def test_tool_client_of_0_2_3(serve):
    server = serve("echo", *PRODUCTION)

    async def agent():
        async with MCPToolClient(base_url=server.url) as env:
            assert [tool.name for tool in await env.list_tools()] == ["echo_message", "echo_with_length"]
            assert await env.call_tool("echo_message", message="Hello!") == "Hello!"
            with pytest.raises(RuntimeError, match="EXECUTION_ERROR"):
                await env.reset()
            assert await env.call_tool("echo_message", message="on") == "on"

    run(agent())


def test_tool_steps_have_no_reward(serve):
    server = serve("echo", *PRODUCTION)

    async def agent():
        async with GenericEnvClient(base_url=server.url) as env:
            listed = await env.step({"type": ListToolsAction().type})
            assert len(listed.observation["tools"]) == 2 and listed.reward is None
            action = CallToolAction(tool_name="echo_message", arguments={"message": "x"})
            called = await env.step({
                "type": action.type,
                "tool_name": action.tool_name,
                "arguments": action.arguments,
            })
            assert called.observation["result"]["data"] == "x"
            assert (called.reward, called.done) == (None, False)

    run(agent())


@pytest.mark.parametrize(
    ("environment", "frame"),
    [
        ("echo", {"type": "reset"}),
        ("echo", {"type": "state"}),
        ("echo", {"type": "step", "data": {"message": "hi"}}),
        ("grid_world", {"type": "reset", "data": {"seed": 1}}),
        ("grid_world", {"type": "step", "data": {"action": "DOWN"}}),
        ("connect4", {"type": "step", "data": {"column": 3}}),
    ],
)
def test_control_over_the_socket_is_an_execution_error(serve, environment, frame):
    server = serve(environment, *PRODUCTION)
    with open_socket(server.url) as socket:
        error = ask(socket, frame)
        assert error["type"] == "error" and error["data"]["code"] == "EXECUTION_ERROR"
        assert error["data"]["message"]
        listed = ask(socket, {"type": "step", "data": {"type": "list_tools"}})
        assert listed["type"] == "observation"


def test_stock_clients_read_the_refusal(serve):
    server = serve("grid_world", *PRODUCTION)

    async def trainer():
        async with GenericEnvClient(base_url=server.url) as env:
            for refused in (env.reset, env.state, lambda: env.step({"action": "DOWN"})):
                with pytest.raises(RuntimeError, match="EXECUTION_ERROR"):
                    await refused()

    run(trainer())


def test_mcp_frames_and_bare_requests(serve):
    server = serve("echo", *PRODUCTION)
    with open_socket(server.url) as socket:
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        request["params"] = {"name": "echo_message", "arguments": {"message": "frame"}}
        assert ask(socket, {"type": "mcp", "data": request})["data"]["result"]["data"] == "frame"
        assert (
            ask(socket, {"type": "step", "data": call("echo_message", message="step")})["type"]
            == "observation"
        )
    assert len(rpc(server.url, "tools/list")["result"]["tools"]) == 2
    called = rpc(server.url, "tools/call", {"name": "echo_message", "arguments": {"message": "bare"}})
    assert called["result"]["data"] == "bare"
    assert post(f"{server.url}/mcp", {}).json()["error"]["code"] == -32600
