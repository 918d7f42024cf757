"""Typed environments behind the stock client: reset, step, state, errors, schemas."""

import json
import re
import sys
import urllib.request

import pytest
from clients.stock import run
from openenv.core import GenericEnvClient
from openenv.core.env_server.serialization import serialize_observation
from openenv.core.env_server.types import WSObservationResponse
from websockets.sync.client import connect

from hosted.conftest import ENVIRONMENTS


def get(server, path):
    with urllib.request.urlopen(server.url + path) as reply:
        return json.load(reply)


def episode(server, play):
    async def playing():
        async with GenericEnvClient(base_url=server.url) as env:
            return await play(env)

    return run(playing())


def test_a_folder_is_served_as_it_is(host):
    server = host("counter_env")

    async def play(env):
        reset = await env.reset(start=3, nobody="takes this")
        assert reset.observation["total"] == 3 and reset.observation["metadata"]["start"] == 3
        assert (reset.reward, reset.done) == (0.0, False)
        one = await env.step({"amount": 2})
        assert (one.observation["total"], one.reward, one.done) == (5, 1, False)
        two = await env.step({"amount": 5})
        assert (two.observation["total"], two.done) == (10, True)
        state = await env.state()
        assert (state["total"], state["step_count"]) == (10, 2)

    episode(server, play)
    assert get(server, "/schema")["action"]["title"] == "Add"
    assert get(server, "/schema")["state"]["type"] == "object"
    assert get(server, "/metadata")["name"] == "Counter"


def test_each_session_works_in_a_copy_of_the_folder(host):
    server = host("counter_env")

    async def play(env):
        files = (await env.reset()).observation["metadata"]["files"]
        assert "imported.txt" in files and "openenv.yaml" in files and "steps.txt" not in files
        first = await env.step({"amount": 1})
        assert first.observation["metadata"]["lines"] == 1
        return first.observation["directory"]

    assert episode(server, play) != episode(server, play)


def test_what_the_application_adds_is_named_at_the_start(host):
    server = host("counter_env")
    assert "/pool_status" in server.log.read_text()


def test_a_wrong_action_is_a_validation_error_of_pydantic(host):
    server = host("counter_env")

    async def play(env):
        await env.reset()
        with pytest.raises(Exception, match="VALIDATION_ERROR"):
            await env.step({"amount": "many"})
        assert (await env.step({"amount": 1})).observation["total"] == 1

    episode(server, play)
    request = urllib.request.Request(
        server.url + "/step",
        data=json.dumps({"action": {"amount": "many"}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    issue = json.load(refused.value)["detail"][0]
    assert (issue["type"], issue["loc"], issue["input"]) == ("int_parsing", ["amount"], "many")


def test_the_second_generation_of_manifests_names_no_application(host):
    server = host("old_env")

    async def play(env):
        assert (await env.reset()).observation["words"] == ["first"]
        assert (await env.step({"word": "second"})).reward == 2

    episode(server, play)


@pytest.mark.parametrize("name", ["kinds:Dice", "kinds:make", "kinds:instance"])
def test_a_class_a_factory_and_an_instance_are_served_by_name(host, name):
    flags = [] if name == "kinds:Dice" else ["--action", "kinds:Roll", "--observation", "kinds:Rolled"]
    server = host(name, *flags)

    async def play(env):
        assert len((await env.reset()).observation["rolls"]) == 2

    episode(server, play)
    assert get(server, "/schema")["action"]["title"] == "Roll"


def test_sessions_roll_different_dice_and_seeds_repeat_them(host):
    server = host("kinds:Dice")

    async def rolls(env):
        return tuple((await env.reset()).observation["rolls"])

    found = [episode(server, rolls) for _ in range(16)]
    for place in range(2):
        assert len({each[place] for each in found}) == 16

    async def seeded(env):
        first = (await env.reset(seed=7)).observation["rolls"]
        return first, (await env.step({"sides": 6})).observation["rolls"]

    assert episode(server, seeded) == episode(server, seeded)


def test_asynchronous_methods_share_an_event_loop(host):
    server = host("kinds:Waiting")

    async def play(env):
        await env.reset()
        return [(await env.step({"sides": sides})).observation["rolls"] for sides in (4, 8)]

    assert episode(server, play) == [[4.0], [8.0]]


def test_values_are_written_as_the_reference_writes_them(host):
    server = host("kinds:Shapes")

    async def play(env):
        seen = await env.reset()
        assert seen.observation["cell"] == {"colour": "red", "at": "2026-01-02T00:00:00Z"}
        assert seen.observation["number"] is None
        assert seen.observation["big"] == 10**30
        assert (seen.observation["text"], seen.observation["extra"]) == ("é☃", [1, 2])
        assert seen.observation["metadata"] == {"array": [0, 1, 2], "count": 4}
        assert seen.reward is True
        assert (await env.state())["mood"] == "fine"

    episode(server, play)


def test_keys_that_json_spells_alike_are_all_written_as_the_reference_writes_them(host):
    server = host("kinds:MixedKeys")
    sys.path.insert(0, str(ENVIRONMENTS))
    import kinds

    stock = WSObservationResponse(data=serialize_observation(kinds.Keyed())).model_dump_json()
    board = re.search(r'"board":\{[^}]*\}', stock).group()
    assert board == '"board":{"1":"a","1":"b","2.5":"c","None":"d","None":"e","1,2":"f"}'
    with connect(server.url.replace("http", "ws") + "/ws") as socket:
        for request in ('{"type":"reset","data":{}}', '{"type":"step","data":{"sides":2}}'):
            socket.send(request)
            assert board in socket.recv()

    async def play(env):
        return (await env.reset()).observation["board"]

    # A client reads the last of them.
    assert episode(server, play) == {"1": "b", "2.5": "c", "None": "e", "1,2": "f"}


def test_actions_that_are_spelled_as_tool_calls_are_the_environments_own(host):
    server = host("own_actions:Spelled")
    actions = [
        {"type": "call_tool", "tool": "a"},
        {"type": "list_tools"},
        {"action_type": "ListToolsAction"},
        {"action_type": "code", "language": "julia"},
    ]

    async def play(env):
        assert (await env.reset()).done is True
        return [(await env.step(action)).observation["given"] for action in actions]

    assert episode(server, play) == actions
    body = json.dumps({"action": actions[0]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + "/step", data=body, headers=headers)
    with urllib.request.urlopen(request) as reply:
        assert json.load(reply)["observation"]["given"] == actions[0]
