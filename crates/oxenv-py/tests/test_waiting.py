"""While something waits: signals, other threads, event loops."""

import asyncio
import gc
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import anyio
import pytest

import oxenv
from conftest import eventually, finished, program, sessions
from oxenv import GenericEnvClient

#: No machine is so slow that this passes by accident; requests below have 60 s.
PROMPT_S = 5.0
HELLO = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": "hello"}}


@contextmanager
def frozen(server: Any) -> Iterator[None]:
    """The server takes what is sent and answers nothing, while this lasts."""
    server.process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{server.process.pid}/task")
    eventually(lambda: all(stopped(thread) for thread in threads.iterdir()))
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(") ")[2].startswith("T")


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


STEPPING = """
import sys
from oxenv import GenericEnvClient
with GenericEnvClient(base_url=sys.argv[1]) as env:
    env.reset()
    print("ready", flush=True)
    try:
        while True:
            env.step({"action": "UP"})
            print("s", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""

CONNECTING = """
import sys
from oxenv import GenericEnvClient
print("ready", flush=True)
GenericEnvClient(base_url=sys.argv[1], connect_timeout_s=60).connect()
"""


def test_ctrl_c_while_connecting(silent: str) -> None:
    process = program(CONNECTING, silent)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    # Before it waits the signal is Python's own matter, and raises as well.
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < PROMPT_S
    assert "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_in_a_step_cancels_it_and_the_session_ends(serve: Any) -> None:
    server = serve("grid_world")
    process = program(STEPPING, server.url)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == "s\n"
    with frozen(server):
        process.send_signal(signal.SIGINT)
        while (line := process.stdout.readline()) == "s\n":
            pass
        assert line == "interrupted\n"
    finished(process)
    eventually(lambda: not sessions(server.url))


def test_a_server_that_does_not_answer_holds_no_exit_up(serve: Any) -> None:
    server = serve("grid_world")
    leaving = """
import sys
from oxenv import GenericEnvClient
env = GenericEnvClient(base_url=sys.argv[1])
env.reset()
print("ready", flush=True)
sys.stdin.readline()
"""
    process = program(leaving, server.url)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with frozen(server):
        began = time.monotonic()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert time.monotonic() - began < PROMPT_S
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    eventually(lambda: not sessions(server.url))


def test_other_threads_run_while_one_waits(silent: str) -> None:
    waiting = threading.Event()
    outcome: list[BaseException] = []

    def connect() -> None:
        waiting.set()
        try:
            GenericEnvClient(base_url=silent, connect_timeout_s=1.0).connect()
        except oxenv.OxenvError as error:
            outcome.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    waiting.wait()
    turns = 0
    while thread.is_alive():
        turns += 1
        time.sleep(0)
    # A thread that held the interpreter for its second would leave a handful.
    assert turns > 1000
    assert isinstance(outcome[0], TimeoutError)


def test_many_threads_with_clients_of_their_own(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "16").url
    counts: list[int] = []

    def play() -> None:
        with GenericEnvClient(base_url=url) as env:
            env.reset()
            for _ in range(50):
                env.step({"action": "UP"})
            counts.append(env.state()["step_count"])

    threads = [threading.Thread(target=play) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50] * 16


def test_a_task_that_is_cancelled_cancels_its_request(serve: Any) -> None:
    server = serve("echo")

    async def main() -> None:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            with frozen(server):
                began = time.monotonic()
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(env.step(HELLO), 0.05)
                assert time.monotonic() - began < PROMPT_S
            # The reply to the step that was given up is not taken for another's.
            state = await env.state()
            assert "step_count" in state
            await env.reset()
            other = {**HELLO, "arguments": {"message": "other"}}
            assert (await env.step(other)).observation["result"]["data"] == "other"

    asyncio.run(main())


def test_a_deadline_of_the_caller(serve: Any) -> None:
    server = serve("echo")
    with GenericEnvClient(base_url=server.url) as env:
        env.reset()
        with frozen(server), pytest.raises(oxenv.TimedOut) as late:
            env.step(HELLO, timeout_s=0.05)
        assert late.value.delivered != "no"
        with frozen(server), pytest.raises(oxenv.TimedOut):
            env.call_tool("echo_message", {"message": "x"}, timeout_s=0.05)


def test_many_tasks_of_one_loop(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "64").url

    async def play() -> int:
        async with GenericEnvClient(base_url=url) as env:
            await env.reset()
            for _ in range(20):
                await env.step({"action": "UP"})
            return int((await env.state())["step_count"])

    async def main() -> list[int]:
        return await asyncio.gather(*[play() for _ in range(64)])

    assert asyncio.run(main()) == [20] * 64
    # A second loop has a queue of its own.
    assert asyncio.run(main()) == [20] * 64


def test_under_anyio(serve: Any) -> None:
    server = serve("echo")

    async def main() -> None:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            with frozen(server), anyio.move_on_after(0.05) as scope:
                await env.step(HELLO)
            assert scope.cancelled_caught
            await env.reset()

    anyio.run(main)


def test_a_client_that_waits_within_a_loop(serve: Any) -> None:
    url = serve("echo").url

    async def main() -> None:
        with GenericEnvClient(base_url=url).sync() as env:
            assert env.reset().done is False
        starting = GenericEnvClient.serve("echo")
        assert not isinstance(starting, GenericEnvClient)
        with starting.sync() as env:
            assert env.reset().done is False

    asyncio.run(main())


def test_an_event_loop_goes_on_when_threads_stop_waiting(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "8").url

    def steps() -> None:
        with GenericEnvClient(base_url=url).sync() as env:
            env.reset()
            for _ in range(50):
                env.step({"action": "UP"})

    async def main() -> int:
        async with GenericEnvClient(base_url=url) as env:
            await env.reset()
            thread = threading.Thread(target=steps)
            thread.start()
            while thread.is_alive():
                await env.step({"action": "UP"})
            before = (await env.state())["step_count"]
            # Nobody else drives its sockets now.
            for _ in range(20):
                await env.step({"action": "UP"})
            return int((await env.state())["step_count"]) - before

    assert asyncio.run(asyncio.wait_for(main(), 30)) == 20


def test_a_client_that_is_dropped_ends_while_nobody_calls(serve: Any) -> None:
    url = serve("grid_world").url
    env = GenericEnvClient(base_url=url).sync()
    env.reset()
    assert len(sessions(url)) == 1
    del env
    gc.collect()
    eventually(lambda: not sessions(url))
