"""Sessions that are threads of one process: what they share, and what ends with what."""

import asyncio
import subprocess

import pytest
from clients.stock import run
from openenv.core import GenericEnvClient

from hosted.conftest import hosted_command

NAME = "together:Together"


@pytest.fixture
def server(host):
    return host(NAME, "--isolation", "thread")


def connect(server):
    return GenericEnvClient(base_url=server.url)


def test_sessions_have_threads_and_objects_of_their_own_in_one_process(server):
    async def play():
        async with connect(server) as one, connect(server) as other:
            first = (await one.reset()).observation
            second = (await other.reset()).observation
            assert first["process"] == second["process"] and first["thread"] != second["thread"]
            for count in (1, 2, 3):
                stepped = await one.step({"what": "nothing"})
                assert (stepped.observation["steps"], stepped.reward) == (count, 1.0)
                assert stepped.observation["thread"] == first["thread"]
            assert (await other.step({"what": "nothing"})).observation["steps"] == 1

    run(play())


def test_a_step_that_takes_long_keeps_no_other_session_waiting(server):
    async def play():
        async with connect(server) as slow, connect(server) as other:
            await slow.reset()
            await other.reset()
            sleeping = asyncio.create_task(slow.step({"what": "sleep"}))
            for count in range(1, 20):
                assert (await other.step({"what": "nothing"})).observation["steps"] == count
            assert not sleeping.done()
            assert (await sleeping).reward == 1.0

    run(play())


def test_what_a_thread_raises_is_its_own_sessions(server):
    async def play():
        async with connect(server) as one, connect(server) as other:
            before = (await other.reset()).observation["process"]
            await one.reset()
            with pytest.raises(Exception, match="on purpose"):
                await one.step({"what": "fail"})
            assert (await one.step({"what": "nothing"})).reward == 1.0
            with pytest.raises(Exception, match="(?s)exited with code 3.*reset the session"):
                await one.step({"what": "leave"})
            assert (await one.reset()).observation["process"] == before
            assert (await other.step({"what": "nothing"})).reward == 1.0

    run(play())


def test_a_process_that_ends_is_started_again_for_all_its_sessions(host):
    server = host(NAME, "--isolation", "thread", "--reset-timeout", "50s")

    async def play():
        async with connect(server) as one, connect(server) as other:
            before = (await one.reset()).observation["process"]
            await other.reset()
            with pytest.raises(Exception, match="(?s)ended.*reset the session"):
                await one.step({"what": "end the process"})
            with pytest.raises(Exception, match="(?s)ended.*reset the session"):
                await other.step({"what": "nothing"})
            after = [(await each.reset()).observation["process"] for each in (one, other)]
            assert after[0] == after[1] != before

    run(play())


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("together:Apart", [], "Apart does not say SUPPORTS_CONCURRENT_SESSIONS = True"),
        (NAME, ["--worker-memory", "1GiB"], "--worker-memory needs a process for each session"),
        (NAME, ["--spares", "3"], "--spares needs a process for each session"),
    ],
)
def test_what_threads_cannot_have_is_refused_at_the_start(name, flags, said):
    command = hosted_command(name, "--isolation", "thread", *flags)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and said in ended.stderr
