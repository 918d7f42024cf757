"""Capacity and reconnecting: a slot is free as soon as a client's close has returned."""

import asyncio
import json

from clients.stock import call, closed_with, newest_only, open_socket, refusal, run
from harness.plain_http import rpc
from openenv.core import GenericEnvClient


def test_the_client_beyond_capacity_is_refused_and_the_slot_is_free_again(serve):
    server = serve("grid_world", "--max-sessions", "1", "--queue-timeout", "0s")

    async def clients():
        async with GenericEnvClient(base_url=server.url) as first:
            await first.reset()
            second = GenericEnvClient(base_url=server.url)
            await second.connect()
            assert "CAPACITY_REACHED" in await refusal(second)
            await second.close()
            # The refusal left the first session alone.
            assert (await first.step({"action": "DOWN"})).observation["x"] == 1
        async with GenericEnvClient(base_url=server.url) as third:
            assert (await third.reset()).done is False

    run(clients())


def test_a_client_waits_for_a_slot_and_gets_the_one_that_is_freed(serve):
    server = serve("grid_world", "--max-sessions", "1")

    async def clients():
        first = GenericEnvClient(base_url=server.url)
        await first.connect()
        await first.reset()
        second = GenericEnvClient(base_url=server.url)
        await second.connect()
        waiting = asyncio.ensure_future(second.reset())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await first.close()
        assert (await waiting).done is False
        await second.close()

    run(clients())


def test_the_refusal_tells_the_numbers(serve):
    server = serve("echo", "--max-sessions", "1", "--queue-timeout", "0s")
    with open_socket(server.url) as holder:
        holder.send('{"type": "state"}')
        holder.recv(timeout=20)
        with open_socket(server.url) as refused:
            error = json.loads(refused.recv(timeout=20))
            assert error["type"] == "error" and error["data"]["code"] == "CAPACITY_REACHED"
            assert (error["data"]["active_sessions"], error["data"]["max_sessions"]) == (1, 1)
            assert closed_with(refused) == 1000
        created = rpc(server.url, "openenv/session/create")["error"]
        assert created["code"] == -32000
        assert created["data"] == {"active_sessions": 1, "max_sessions": 1}


def test_one_slot_serves_one_client_after_another(serve):
    server = serve("echo", "--max-sessions", "1", "--queue-timeout", "0s")

    async def clients():
        for number in range(20):
            async with GenericEnvClient(base_url=server.url) as env:
                await env.reset()
                result = await env.step(call("echo_message", message=str(number)))
                assert result.observation["result"]["data"] == str(number)

    run(clients())


def test_a_reconnected_client_has_a_new_session(serve):
    server = serve("grid_world", "--max-sessions", "1", "--queue-timeout", "0s")

    async def client():
        env = GenericEnvClient(base_url=server.url)
        await env.connect()
        try:
            await env.reset()
            await env.step({"action": "DOWN"})
            before = await env.state()
            await env.disconnect()
            await env.connect()
            after = await env.state()
            assert (before["step_count"], after["step_count"]) == (1, 0)
            assert before["episode_id"] != after["episode_id"]
        finally:
            await env.close()

    run(client())


def test_a_client_whose_connection_broke_gets_its_slot_back(serve):
    """No close frame, no FIN handshake: the connection is reset under the client."""
    server = serve("grid_world", "--max-sessions", "1", "--queue-timeout", "0s")

    async def client():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            env._ws.transport.abort()
            await env._ws.wait_closed()
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            env = GenericEnvClient(base_url=server.url)
            await env.connect()
            try:
                state = await env.state()
                break
            except Exception as refused:
                assert asyncio.get_running_loop().time() < deadline, f"slot still held: {refused}"
            finally:
                await env.close()
        assert state["step_count"] == 0

    run(client())


@newest_only("the older client goes on reading its old socket")
def test_after_a_timeout_the_client_is_in_a_new_session(serve):
    server = serve("grid_world", "--max-sessions", "1", "--queue-timeout", "0s")

    async def client():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            await env.step({"action": "DOWN"})
            patience, env._message_timeout = env._message_timeout, 0.0
            try:
                await env.step({"action": "DOWN"})
                raise AssertionError("a timeout of zero did not expire")
            except asyncio.TimeoutError:
                env._message_timeout = patience
            # The client waits for the old socket's close, so the one slot is free.
            assert (await env.state())["step_count"] == 0

    run(client())


@newest_only("the older client has no new_session")
def test_child_sessions_count(serve):
    server = serve("grid_world", "--max-sessions", "2", "--queue-timeout", "0s")

    async def client():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            child = await env.new_session()
            await child.reset()
            await child.step({"action": "DOWN"})
            assert ((await env.state())["step_count"], (await child.state())["step_count"]) == (0, 1)
            third = await env.new_session()
            assert "CAPACITY_REACHED" in await refusal(third)

    run(client())


def test_many_clients_at_once(serve):
    server = serve("grid_world", "--max-sessions", "64", "--queue-timeout", "0s")

    async def one(steps):
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            for _ in range(steps):
                await env.step({"action": "UP"})
            return (await env.state())["step_count"]

    async def all_of_them():
        return await asyncio.gather(*(one(steps) for steps in range(64)))

    assert run(all_of_them()) == list(range(64))
