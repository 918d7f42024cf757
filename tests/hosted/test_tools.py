"""An MCPEnvironment behind the stock clients: its tools with their real schemas, through every door."""

import json
import urllib.request
from pathlib import Path

import pytest
from clients.stock import call, run
from openenv.core import GenericEnvClient
from openenv.core.mcp_client import MCPToolClient

ENVIRONMENTS = Path(__file__).parent / "environments"
ECHO = "reference.echo_openenv:EchoEnvironment"


def test_tools_through_step(host):
    server = host(ECHO)

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            reset = await env.reset()
            assert reset.observation["metadata"]["status"] == "ready"
            said = await env.step(call("echo_message", message="três ☃"))
            assert said.observation["result"]["data"] == "três ☃" and said.observation["error"] is None
            long = await env.step(call("echo_with_length", message="três"))
            assert long.observation["result"]["data"] == {"message": "três", "length": 4}
            unknown = await env.step(call("nope"))
            assert unknown.observation["error"]["error_type"] == "tool_not_found"
            tools = (await env.step({"type": "list_tools"})).observation["tools"]
            assert [tool["name"] for tool in tools] == ["echo_message", "echo_with_length"]
            message = tools[0]["input_schema"]["properties"]["message"]
            assert message["description"] == "The message to echo back"

    run(play())


def test_tools_through_the_stock_tool_client(host):
    server = host(ECHO)

    async def play():
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset()
            assert [tool.name for tool in await env.list_tools()] == ["echo_message", "echo_with_length"]
            assert await env.call_tool("echo_message", message="hello") == "hello"

    run(play())


def test_tools_of_the_episode_through_mcp(host):
    server = host(ECHO)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    body["params"] = {"name": "echo_message", "arguments": {"message": "hi"}}
    request = urllib.request.Request(
        server.url + "/mcp", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        assert json.load(reply)["result"]["data"] == "hi"


def ask(server, method, **params):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(
        server.url + "/mcp", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["result"]


def test_tools_keep_the_schemas_of_their_results(host):
    tools = ask(host(ECHO), "tools/list")["tools"]
    assert tools[0]["outputSchema"]["properties"] == {"result": {"type": "string"}}


@pytest.mark.parametrize("name", ["own_actions:Beside", "own_actions:factory"])
def test_tools_beside_actions_of_the_environments_own(host, name):
    flags = ["--action", "own_actions:Say", "--observation", "own_actions:Given"]
    server = host(name, *flags)
    tools = ask(server, "tools/list")["tools"]
    assert [(tool["name"], tool["description"]) for tool in tools] == [("double", "")]
    assert ask(server, "tools/call", name="double", arguments={"number": 4})["data"] == 8

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            return (await env.step({"word": "hello"})).observation["given"]

    assert run(play()) == {"word": "hello"}


def test_tool_calls_without_a_server_of_tools(host):
    server = host("own_actions:Alone")
    assert [tool["name"] for tool in ask(server, "tools/list")["tools"]] == ["double"]
    assert ask(server, "tools/call", name="double", arguments={"number": 4})["data"] == 8

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            tools = (await env.step({"type": "list_tools"})).observation["tools"]
            called = await env.step(call("double", number=3))
            return [tool["name"] for tool in tools], called.observation["result"], called.reward

    assert run(play()) == (["double"], 6, 0.5)


CALLS = [
    ("text", {"word": "três ☃"}),
    ("text", {}),
    ("text", {"word": 3}),
    ("text", {"word": "a", "more": 1}),
    ("nothing", {}),
    ("point", {"x": 1}),
    ("point", {"x": "7"}),
    ("point", {}),
    ("takes_point", {"point": {"x": 1, "y": 2}}),
    ("takes_point", {"point": {"y": 2}}),
    ("mixed", {}),
    ("counted", {"most": 3}),
    ("fails", {"text": "went wrong"}),
    ("fails", {"text": "an invalid argument"}),
    ("refuses", {}),
    ("breaks_a_model", {}),
    ("runs_a_loop", {"seconds": 0}),
    ("waits", {"seconds": 0}),
    ("waits", {"seconds": 30}),
    ("sleeps", {"seconds": 5}),
    ("text", {"word": "after"}),
    ("asks_its_context", {"key": "a"}),
    ("asks_its_context", {}),
    ("hides", {"name": "text"}),
    ("text", {}),
    ("nope", {}),
]


def test_calls_without_a_thread_end_as_the_reference_lets_them_end(host, monkeypatch):
    """Every result, error and error type is that of the same class in the reference's own hands."""
    pytest.importorskip("openenv.core.env_server.mcp_environment")
    monkeypatch.syspath_prepend(str(ENVIRONMENTS))
    from openenv.core.env_server.mcp_types import CallToolAction
    from openenv.core.env_server.serialization import serialize_observation
    from tool_results import ToolResults

    stock, server = ToolResults(), host("tool_results:ToolResults")

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            for tool, arguments in CALLS:
                action = CallToolAction(tool_name=tool, arguments=arguments)
                # The same clock: a sleeping thread of the reference's is left behind.
                wanted = serialize_observation(await stock.step_async(action))["observation"]
                given = (await env.step(call(tool, **arguments))).observation
                kept = {key: given[key] for key in wanted}
                assert kept == wanted, (tool, arguments)

    run(play())
