"""`GenericEnvClient`, async and sync: reset, step, state, tools through step."""

import pytest
from clients.stock import call, newest_only, run
from openenv.core import GenericEnvClient

READY = {"status": "ready", "message": "Echo environment ready!"}


def test_async_echo_episode(serve):
    server = serve("echo")

    async def episode():
        async with GenericEnvClient(base_url=server.url) as env:
            reset = await env.reset(seed=7, episode_id="episode-7")
            assert reset.observation == {"metadata": READY}
            assert (reset.reward, reset.done) == (0.0, False)
            assert await env.state() == {"episode_id": "episode-7", "step_count": 0}
            for count, message in enumerate(("one", "zwei", "três ☃"), start=1):
                result = await env.step(call("echo_message", message=message))
                assert result.observation["tool_name"] == "echo_message"
                assert result.observation["result"]["data"] == message
                assert result.observation["error"] is None
                assert (result.reward, result.done) == (None, False)
                assert (await env.state())["step_count"] == count
            lengths = await env.step(call("echo_with_length", message="três"))
            assert lengths.observation["result"]["data"] == {"message": "três", "length": 4}

    run(episode())


def test_sync_echo_episode(serve):
    server = serve("echo")
    with GenericEnvClient(base_url=server.url).sync() as env:
        assert env.reset().observation == {"metadata": READY}
        result = env.step(call("echo_message", message="hello"))
        assert result.observation["result"]["data"] == "hello"
        assert env.state()["step_count"] == 1


@newest_only("the older client has no sync use without .sync()")
def test_sync_without_wrapper(serve):
    server = serve("echo")
    with GenericEnvClient(base_url=server.url) as env:
        assert env.reset().metadata == READY
        assert env.step(call("echo_message", message="hello")).observation["result"]["data"] == "hello"
        assert env.state()["step_count"] == 1


def test_tools_are_listed_through_step_without_a_reset(serve):
    server = serve("echo")

    async def listing():
        async with GenericEnvClient(base_url=server.url) as env:
            tools = (await env.step({"type": "list_tools"})).observation["tools"]
            assert [tool["name"] for tool in tools] == ["echo_message", "echo_with_length"]
            for tool in tools:
                assert set(tool) == {"name", "description", "input_schema"}
                assert tool["input_schema"]["required"] == ["message"]

    run(listing())


@pytest.mark.parametrize(
    ("action", "error_type"),
    [
        (call("nope"), "tool_not_found"),
        (call("echo_message"), "invalid_args"),
    ],
)
def test_a_tool_error_is_an_observation(serve, action, error_type):
    server = serve("echo")

    async def step():
        async with GenericEnvClient(base_url=server.url) as env:
            result = await env.step(action)
            error = result.observation["error"]
            assert set(error) == {"error_type", "message"} and error["error_type"] == error_type
            assert result.observation["result"] is None
            assert (result.reward, result.done) == (None, False)

    run(step())


def test_a_reset_begins_a_new_episode(serve):
    server = serve("echo")

    async def resets():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            await env.step(call("echo_message", message="x"))
            first = await env.state()
            await env.reset()
            second = await env.state()
            assert (first["step_count"], second["step_count"]) == (1, 0)
            assert first["episode_id"] != second["episode_id"]

    run(resets())


@pytest.mark.parametrize("environment", ["echo", "connect4", "grid_world", "number_guess"])
def test_every_bundled_environment_resets_and_tells_its_state(serve, environment):
    server = serve(environment, "--seed", "5")

    async def reset():
        async with GenericEnvClient(base_url=server.url) as env:
            result = await env.reset(seed=3, episode_id="mine")
            assert result.done is False
            state = await env.state()
            assert (state["episode_id"], state["step_count"]) == ("mine", 0)

    run(reset())
