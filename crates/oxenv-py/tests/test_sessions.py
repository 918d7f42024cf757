"""Episodes and tools, in every way that a session can be used."""

import asyncio
import urllib.request
import warnings
from dataclasses import dataclass
from typing import Any

import pytest

import oxenv
from conftest import eventually, sessions
from oxenv import CallToolAction, Connection, EchoEnv, EnvClient, GenericEnvClient, HTTPEnvClient, StepResult

HELLO = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": "hello"}}


@pytest.mark.parametrize("protocol", ["auto", "stock", "oxenv.1", "http"])
def test_an_episode_by_each_protocol(serve: Any, protocol: str) -> None:
    with GenericEnvClient(base_url=serve("grid_world").url, protocol=protocol) as env:
        first = env.reset(seed=7, episode_id="seventh")
        assert (first.observation["x"], first.observation["y"], first.done) == (0, 0, False)
        steps = [env.step({"action": move}) for move in ["DOWN", "RIGHT"] * 4]
        assert [step.done for step in steps] == [False] * 7 + [True]
        assert steps[0].reward == -0.1 and steps[-1].reward == 1.0
        assert env.state()["episode_id"] == "seventh" and env.state()["step_count"] == 8
        assert env.protocol == ("oxenv.1" if protocol == "auto" else protocol)


def test_as_programs_for_the_stock_client_use_it(serve: Any) -> None:
    url = serve("echo", "--max-sessions", "4").url
    with GenericEnvClient(base_url=url).sync() as env:
        env.reset()
        assert env.step(HELLO).observation["result"]["data"] == "hello"
    env = GenericEnvClient(base_url=url.replace("http", "ws"))
    assert env.reset(seed=1).reward == 0.0
    assert env.state()["step_count"] == 0
    env.close()

    async def main() -> None:
        async with GenericEnvClient(base_url=url) as env:
            result = await env.reset()
            assert isinstance(result, StepResult) and result.done is False
            assert (await env.step(HELLO)).observation["result"]["data"] == "hello"
            assert (await env.state())["step_count"] == 1
        assert env.sync().reset is not None

    asyncio.run(main())


def test_subclasses_say_how_actions_and_results_look(serve: Any) -> None:
    @dataclass
    class Move:
        action: str

    @dataclass
    class Place:
        x: int
        y: int

    class Grid(EnvClient[Move, Place, int]):
        def _step_payload(self, action: Move) -> dict[str, Any]:
            return {"action": action.action}

        def _parse_result(self, payload: dict[str, Any]) -> StepResult[Place]:
            seen = payload["observation"]
            return StepResult(Place(seen["x"], seen["y"]), payload.get("reward"), payload.get("done", False))

        def _parse_state(self, payload: dict[str, Any]) -> int:
            return int(payload["step_count"])

        async def twice(self, move: str) -> Place:
            await self.step(Move(move))
            return (await self.step(Move(move))).observation

    with Grid(base_url=serve("grid_world").url).sync() as env:
        env.reset()
        assert env.step(Move("DOWN")).observation == Place(1, 0)
        assert env.twice("RIGHT") == Place(1, 2)
        assert env.state() == 3


def test_tools(serve: Any) -> None:
    with GenericEnvClient(base_url=serve("echo").url) as env:
        env.reset()
        tools = {tool.name: tool for tool in env.list_tools()}
        assert list(tools) == ["echo_message", "echo_with_length"]
        assert tools["echo_message"].input_schema["required"] == ["message"]
        result = env.call_tool("echo_with_length", message="four")
        assert result.data == {"message": "four", "length": 4}
        assert result.structured_content == result.data and not result.is_error
        with pytest.raises(oxenv.InvalidArguments) as wrong:
            env.call_tool("echo_message", {"massage": "x"})
        assert wrong.value.delivered == "no" and isinstance(wrong.value, ValueError)
        with pytest.raises(oxenv.ToolNotFound, match="echo_massage"):
            env.call_tool("echo_massage", {"message": "x"})
        # Only the server can tell what a name is that it did not list.
        assert env.state()["step_count"] == 2


def test_the_echo_client_of_the_journal(serve: Any) -> None:
    url = serve("echo").url
    with EchoEnv(base_url=url) as env:
        assert env.reset().observation.metadata["message"] == "Echo environment ready!"
        assert env.echo_message("Hello MCP!").observation.metadata["result"] == "Hello MCP!"
        assert env.echo_with_length("four").observation.metadata["result"]["length"] == 4
        listed = env.step(oxenv.ListToolsAction()).observation.metadata["tools"]
        assert [tool["name"] for tool in listed] == [tool.name for tool in env.list_tools()]
        stock = env.step(CallToolAction(tool_name="echo_message", arguments={"message": "stock"}))
        assert stock.observation.result["data"] == "stock"
        with pytest.warns(DeprecationWarning, match="CallToolAction"):
            action = oxenv.EchoAction(message="old")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert env.step(action).observation.echoed_message == "old"
        with pytest.warns(DeprecationWarning, match="EchoObservation"):
            oxenv.EchoObservation(echoed_message="old")
        assert env.state().step_count == 5


def test_tools_by_their_values(serve: Any) -> None:
    url = serve("echo").url
    with oxenv.MCPToolClient(base_url=url) as env:
        env.reset()
        assert env.call_tool("echo_message", message="Hello!") == "Hello!"
        assert env.has_tool("echo_message") and not env.has_tool("other")
        assert env.get_tool("echo_message").name == "echo_message"


def test_actions_are_spelled_as_printed() -> None:
    unified = oxenv.UnifiedAction(action_type="tool", tool_name="t", tool_args={"a": 1})
    assert unified.to_payload() == {"action_type": "tool", "tool_name": "t", "tool_args": {"a": 1}}
    assert oxenv.UnifiedAction("code", code="1").to_payload() == {"action_type": "code", "code": "1"}
    assert oxenv.CodeAction(code="1").to_payload() == {"code": "1"}
    assert oxenv.GenericAction(code="x", timeout=30) == {"code": "x", "timeout": 30}
    assert CallToolAction("t", {"a": 1}).to_payload()["parameters"] == {"a": 1}


def test_many_sessions_over_one_socket(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "8").url
    connection = Connection(url)
    one, two = connection.open(seed=1), connection.open(seed=2)
    one.reset()
    two.reset()
    results = connection.step_batch([
        (one, {"action": "DOWN"}),
        (two, {"action": "RIGHT"}),
        (one, {"action": "?"}),
    ])
    assert [result.observation["x"] for result in results[:2]] == [1, 0]
    assert isinstance(results[2], oxenv.OxenvError)
    copies = one.fork(2)
    assert [copy.step({"action": "DOWN"}).observation["x"] for copy in copies] == [2, 2]
    again = connection.restore(one.snapshot())
    assert again.step({"action": "DOWN"}).observation["x"] == 2
    assert one.state()["step_count"] == 1
    for client in [one, two, again, *copies]:
        client.close()
    assert sessions(url) == []


@pytest.mark.parametrize("protocol", ["stock", "oxenv.1", "http"])
def test_a_lost_session_is_opened_anew_by_a_reset_alone(serve: Any, protocol: str) -> None:
    url = serve("grid_world").url
    with GenericEnvClient(base_url=url, protocol=protocol) as env:
        env.reset()
        env.step({"action": "DOWN"})
        (session,) = sessions(url)
        request = urllib.request.Request(f"{url}/sessions/{session['session_id']}", method="DELETE")
        urllib.request.urlopen(request).close()
        with pytest.raises(oxenv.OxenvError):
            env.step({"action": "DOWN"})
        assert env.reset().observation["x"] == 0
        assert env.step({"action": "DOWN"}).observation["x"] == 1


def test_a_closed_client_says_so_until_it_is_connected_again(serve: Any) -> None:
    url = serve("grid_world").url
    env = GenericEnvClient(base_url=url)
    env.reset()
    env.close()
    with pytest.raises(oxenv.Closed):
        env.step({"action": "DOWN"})
    assert env.connect() is env
    assert env.reset().observation["x"] == 0
    env.close()
    env.close()
    eventually(lambda: not sessions(url))


def test_over_http_a_session_of_its_own(serve: Any) -> None:
    url = serve("echo", "--max-sessions", "2").url
    with HTTPEnvClient(base_url=url) as one, HTTPEnvClient(base_url=url) as two:
        one.reset()
        two.reset()
        one.step(HELLO)
        assert (one.state()["step_count"], two.state()["step_count"]) == (1, 0)
    assert sessions(url) == []
