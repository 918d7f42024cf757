"""Every example is played to the end of its episodes: seeds, neighbours, errors, values on the wire."""

import asyncio
import json
import random

import jsonschema
import pytest
from clients.stock import ask, open_socket, run
from harness.plain_http import get
from openenv.core import GenericEnvClient

from hosted_examples.episodes import episode
from hosted_examples.plays import PLAYS

every_example = pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.folder)


@every_example
def test_an_episode_ends_and_its_seed_gives_it_again(example, play):
    server = example(play.folder)
    first = run(episode(server.url, play, 7))
    assert first[-1].done and not any(step.done for step in first[:-1])
    assert all(isinstance(step.reward, (int, float)) for step in first[1:])
    assert run(episode(server.url, play, 7)) == first


@every_example
def test_two_sessions_at_once_do_not_disturb_each_other(example, play):
    server = example(play.folder)

    async def both():
        return await asyncio.gather(episode(server.url, play, 1), episode(server.url, play, 2))

    alone = [run(episode(server.url, play, seed)) for seed in (1, 2)]
    assert alone[0] != alone[1]
    assert run(both()) == alone


@pytest.mark.parametrize("play", [play for play in PLAYS if play.drawn], ids=lambda play: play.folder)
def test_episodes_without_a_seed_differ(example, play):
    async def first_observations():
        url, seen = example(play.folder).url, []
        async with GenericEnvClient(base_url=url) as one, GenericEnvClient(base_url=url) as other:
            for env in (one, other, one):
                seen.append((await env.reset(**play.reset)).observation)
        return seen

    one, other, again = run(first_observations())
    assert one != other and one != again and other != again


@pytest.mark.parametrize("play", [play for play in PLAYS if play.refused], ids=lambda play: play.folder)
def test_an_action_that_is_refused_leaves_the_episode_as_it_was(example, play):
    server = example(play.folder)
    action, says = play.refused

    async def compare():
        clients = [GenericEnvClient(base_url=server.url) for _ in range(2)]
        async with clients[0] as one, clients[1] as other:
            seen = [(await env.reset(seed=5, **play.reset)).observation for env in (one, other)]
            with pytest.raises(Exception, match=f"{says}.*EXECUTION_ERROR"):
                await one.step(action)
            good = play.act(seen[0], random.Random(5))
            assert (await one.step(good)).observation == (await other.step(good)).observation

    run(compare())


@every_example
def test_a_wrong_action_is_a_validation_error(example, play):
    async def wrong():
        async with GenericEnvClient(base_url=example(play.folder).url) as env:
            await env.reset(**play.reset)
            with pytest.raises(Exception, match="VALIDATION_ERROR"):
                await env.step({"no_such_field": 1})

    run(wrong())


@every_example
def test_what_is_sent_is_json_and_fits_the_schema(example, play):
    server = example(play.folder)
    schema = get(server.url + "/schema").json()
    dice, sent = random.Random(3), 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with open_socket(server.url) as socket:
        message = {"type": "reset", "data": {"seed": 3, **play.reset}}
        while True:
            socket.send(json.dumps(message))
            reply = json.loads(socket.recv(timeout=30), parse_constant=refuse)
            assert reply["type"] == "observation", reply
            seen = reply["data"]["observation"]
            jsonschema.validate(seen, schema["observation"])
            if reply["data"]["done"] or sent == 50:
                break
            action = play.act(seen, dice)
            jsonschema.validate(action, schema["action"])
            message, sent = {"type": "step", "data": action}, sent + 1
        jsonschema.validate(ask(socket, {"type": "state"})["data"], schema["state"])
