"""What an environment does wrong touches its own session alone, and is told with its last words."""

import json
import os
import urllib.error
import urllib.request

import pytest
from clients.stock import run
from openenv.core import GenericEnvClient

from hosted.processes import command_of, descendants, is_alive, wait_until

NAME = "misbehaving:Misbehaving"


def connect(server):
    return GenericEnvClient(base_url=server.url)


def post(server, path, body):
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, data=data, headers=headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("exit", "exited with code 3.*leaving on purpose"),
        ("exit_at_once", "exited with code 4"),
        ("crash", "SIGSEGV.*about to crash"),
    ],
)
def test_the_end_of_a_process_ends_its_own_episode_alone(host, what, said):
    server = host(NAME)

    async def play():
        async with connect(server) as other, connect(server) as env:
            before = (await other.reset()).observation["pid"]
            await env.reset()
            with pytest.raises(Exception, match=f"(?s){said}.*reset the session"):
                await env.step({"what": what})
            with pytest.raises(Exception, match="has ended; reset the session"):
                await env.step({"what": "nothing"})
            again = await env.reset()
            assert (await env.step({"what": "nothing"})).reward == 1.0
            assert again.observation["pid"] != before
            assert (await other.step({"what": "nothing"})).observation["pid"] == before

    run(play())


def test_a_worker_that_is_killed_from_outside_is_replaced_by_a_reset(host):
    server = host(NAME)

    async def play():
        async with connect(server) as env:
            for _ in range(5):
                pid = (await env.reset()).observation["pid"]
                os.kill(pid, 9)
                with pytest.raises(Exception, match="SIGKILL|has ended"):
                    await env.step({"what": "nothing"})

    run(play())


def test_a_reply_is_that_of_its_request(host):
    server = host(NAME)

    async def play():
        async with connect(server) as env:
            pid = (await env.reset()).observation["pid"]
            assert (await env.step({"what": "fork_into_our_code"})).observation["pid"] == pid
            for _ in range(3):
                assert (await env.step({"what": "nothing"})).observation["pid"] == pid
            assert (await env.reset()).reward is None

    run(play())


def test_an_import_that_takes_our_signals_changes_nothing(host):
    server = host("stealing:Misbehaving")

    async def play():
        async with connect(server) as env:
            for _ in range(3):
                await env.reset()
                with pytest.raises(Exception, match="exited with code 4"):
                    await env.step({"what": "exit_at_once"})

    run(play())


def test_a_template_that_is_killed_is_started_again(host):
    server = host("kinds:Dice", "--spares", "0")

    async def play():
        async with connect(server) as env:
            await env.reset()
        templates = [pid for pid in descendants(server.process.pid) if b"worker.py" in command_of(pid)]
        os.kill(min(templates), 9)
        async with connect(server) as env:
            assert len((await env.reset()).observation["rolls"]) == 2

    run(play())


@pytest.mark.parametrize("what", ["raise_error", "overflow", "raise_interrupt"])
def test_an_exception_leaves_the_session_as_it_is(host, what):
    server = host(NAME)

    async def play():
        async with connect(server) as env:
            pid = (await env.reset()).observation["pid"]
            with pytest.raises(Exception, match="made to raise|maximum recursion depth|made to interrupt"):
                await env.step({"what": what})
            assert (await env.step({"what": "nothing"})).observation["pid"] == pid

    run(play())


@pytest.mark.parametrize("what", ["noise", "close_output", "daemon_thread"])
def test_output_and_threads_do_not_reach_the_protocol(host, what):
    server = host(NAME)

    async def play():
        async with connect(server) as env:
            await env.reset()
            assert (await env.step({"what": what})).reward == 1.0
            assert (await env.step({"what": "nothing"})).reward == 1.0

    run(play())


def test_a_stuck_step_ends_at_its_deadline_with_its_process(host):
    server = host(NAME)
    pid = post(server, "/reset", {})["observation"]["pid"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, "/step", {"action": {"what": "hang"}, "timeout_s": 0.5})
    assert json.load(refused.value)["oxenv"]["code"] == "DEADLINE_EXCEEDED"
    wait_until(lambda: not is_alive(pid))
    assert post(server, "/reset", {})["observation"]["pid"] != pid


@pytest.mark.parametrize("what", ["children_left", "thread"])
def test_what_a_session_started_ends_with_it(host, what):
    server = host(NAME)

    async def play():
        async with connect(server) as env:
            await env.reset()
            seen = (await env.step({"what": what})).observation
            return [seen["pid"], *seen["children"]]

    for pid in run(play()):
        wait_until(lambda pid=pid: not is_alive(pid), 20)
