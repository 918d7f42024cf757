"""Environments that are written with the package: the same in process and served by the binary."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import eventually, finished, program, started_hosted
from environments.authored import Calculator, FromManifest, Guess, Guessing, Sums
from harness import components

from oxenv import (
    CallToolAction,
    Environment,
    GenericEnvClient,
    ListToolsAction,
    Observation,
    PythonExecutor,
    State,
    UnifiedAction,
    ValidationError,
)

ENVIRONMENTS = Path(__file__).with_name("environments")


def fields(observation: Any) -> dict[str, Any]:
    """What of an observation has to be the same over the wire, where done and reward stand beside it."""
    given = {key: value for key, value in observation.items() if key not in ("done", "reward")}
    given["metadata"] = {key: value for key, value in given["metadata"].items() if key != "oxenv"}
    return json.loads(json.dumps(given, default=vars))


ACTIONS = [
    ListToolsAction(),
    CallToolAction("add", {"a": 3}),
    CallToolAction("join", arguments={"words": ["a", "b"]}),
    UnifiedAction("tool", tool_name="add", tool_args={"a": 3, "b": 1}),
    CallToolAction("add", {"a": "3", "c": 1}),
    CallToolAction("divide", arguments={"a": 1, "b": 0}),
    CallToolAction("nothing", {}),
]


def test_tool_calls_give_the_same_in_process_and_served() -> None:
    with started_hosted("authored:Calculator", ENVIRONMENTS) as url, GenericEnvClient(base_url=url) as client:
        with Calculator() as env:
            env.reset(seed=1)
            client.reset(seed=1)
            for action in ACTIONS:
                ours, served = env.step(action), client.step(action)
                assert (ours.reward, ours.done) == (served.reward, served.done)
                before, after = fields(ours)["metadata"], fields(served.observation)["metadata"]
                if isinstance(action, CallToolAction) and action.tool_name == "nothing":
                    # Of an unknown tool the server says it in its own words.
                    assert "unknown tool 'nothing'" in before["error"] and "nothing" in after["error"]
                    continue
                assert before == after
                if isinstance(action, UnifiedAction):
                    assert ours.stdout == served.observation["stdout"] == '{"sum":4}'
                if getattr(action, "arguments", None) is not None:
                    result, error = served.observation["result"], served.observation["error"]
                    assert ours.error == error
                    assert (ours.result and ours.result.data) == (result and result["data"])
            assert env.state.step_count == len(ACTIONS) - 1


def test_tools_are_offered_over_mcp_with_their_schemas() -> None:
    with started_hosted("authored:Guessing", ENVIRONMENTS) as url:
        with urllib.request.urlopen(f"{url}/tools") as reply:
            tools = json.load(reply)["tools"]
        assert [tool["name"] for tool in tools] == ["add", "join", "divide"]
        assert tools[0]["description"] == "Adds."
        assert tools[0]["inputSchema"] == {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "description": "what is added", "default": 1},
            },
            "required": ["a"],
            "additionalProperties": False,
        }
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        call["params"] = {"name": "add", "arguments": {"a": 1}}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/mcp", json.dumps(call).encode(), headers)
        with urllib.request.urlopen(request) as reply:
            assert json.load(reply)["result"]["data"] == {"sum": 2}


def play(reset: Callable[..., Any], step: Callable[[int], Any]) -> list[tuple[str, float | None, bool]]:
    """An episode by halving."""
    low, high, played = 1, 100, []
    reset(seed=7, most=100)
    while not played or not played[-1][2]:
        middle = (low + high) // 2
        hint, reward, done = step(middle)
        played.append((hint, reward, done))
        low, high = (middle + 1, high) if hint == "higher" else (low, middle - 1)
    return played


def test_a_typed_environment_is_the_same_in_process_and_served() -> None:
    with Guessing() as env:

        def step(number: int) -> tuple[str, float | None, bool]:
            answer = env.step(Guess(number))
            return answer.hint, answer.reward, answer.done

        played = play(env.reset, step)
        assert played[-1] == ("right", 1.0, True) and env.state.step_count == len(played)
    with started_hosted("authored:Guessing", ENVIRONMENTS) as url, GenericEnvClient(base_url=url) as client:

        def served(number: int) -> tuple[str, float | None, bool]:
            result = client.step({"number": number})
            return result.observation["hint"], result.reward, result.done

        assert play(client.reset, served) == played
        assert client.state()["number"] == env.state.number
        with pytest.raises(ValidationError, match="number: Field required; count: Unexpected") as refused:
            client.reset()
            client.step({"count": 1})
        assert [issue["loc"] for issue in refused.value.data] == [["number"], ["count"]]


def test_tool_calls_are_rewarded() -> None:
    with Sums() as env:
        env.reset()
        assert env.step(CallToolAction("add", {"a": 1})).reward == 0.0
        last = env.step(CallToolAction("add", {"a": 3}))
        assert (last.reward, last.done) == (1.0, True)
    with started_hosted("authored:Sums", ENVIRONMENTS) as url, GenericEnvClient(base_url=url) as client:
        client.reset()
        assert client.step(CallToolAction("add", {"a": 1})).reward == 0.0
        assert client.call_tool("add", a=3).data == {"sum": 4}
        with urllib.request.urlopen(f"{url}/sessions/{client.session_id}") as reply:
            assert json.load(reply)["episode_reward"] == 1.0


def test_the_tools_of_a_manifest_are_served_and_end_with_their_session(tmp_path: Path) -> None:
    manifest = tmp_path / "tools.yaml"
    manifest.write_text(json.dumps({"tools": [components.time().in_manifest("time")]}))
    flags = ("--env", f"MANIFEST={manifest}", "--spares", "0")
    with started_hosted("authored:FromManifest", ENVIRONMENTS, *flags) as url:
        with GenericEnvClient(base_url=url) as client:
            client.reset()
            called = client.call_tool("get_current_time", timezone="UTC")
            assert json.loads(called.text)["timezone"] == "UTC"
            assert serving(manifest)
        eventually(lambda: not serving(manifest))


def serving(manifest: Path) -> bool:
    """Whether a process serves a manifest."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(manifest).encode() in words:
            return True
    return False


def test_in_an_event_loop_it_waits(tmp_path: Path) -> None:
    manifest = tmp_path / "tools.yaml"
    manifest.write_text(json.dumps({"tools": [components.time().in_manifest("time")]}))

    async def episode() -> list[Any]:
        with Calculator() as env, FromManifest() as tools:
            env.reset()
            tools.reset()
            first = env.step(CallToolAction("join", {"words": ["in", "a", "loop"]})).metadata["result"]
            handled = await env._handle_mcp_action(CallToolAction("add", {"a": 1}))
            called = tools.step(CallToolAction("get_current_time", {"timezone": "UTC"}))
            return [first, handled.metadata["result"], called.metadata["result"]["timezone"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANIFEST", str(manifest))
        assert asyncio.run(episode()) == ["in a loop", {"sum": 2}, "UTC"]


def test_an_environment_without_a_step_says_what_it_takes() -> None:
    says = "Calculator takes tool calls only: it defines no step that takes a Guess"
    with pytest.raises(NotImplementedError, match=says):
        Calculator().step(Guess(1))


def test_code_may_call_the_tools() -> None:
    with Calculator() as env:
        ran = env._executor.run("print(add(1, 2)['sum'])\nraise ValueError('no')")
        assert (ran.stdout, ran.exit_code) == ("3\n", 1)
        assert ran.stderr.endswith("ValueError: no\n") and "_executor.py" not in ran.stderr
    assert [PythonExecutor().run(f"exit({code})").exit_code for code in ("", "3", "'no'")] == [0, 3, 1]


def test_a_class_needs_no_init_and_an_observation_no_class() -> None:
    class Bare(Environment):
        def __init__(self) -> None:
            pass

        def step(self, action: Any, timeout_s: float | None = None, **options: Any) -> Observation:
            self.state.step_count += 1
            return Observation(seen=action, reward=0.5)

    env = Bare()
    observation = env.step({"a": 1})
    assert (observation.seen, observation.reward, observation.done) == ({"a": 1}, 0.5, False)
    assert env.state == State(step_count=1) == {"episode_id": None, "step_count": 1}
    assert env.get_available_tools() == []


def test_importing_the_package_starts_no_thread() -> None:
    source = "import os, oxenv; print(len(os.listdir('/proc/self/task')))"
    assert finished(program(source)) == "1\n"
