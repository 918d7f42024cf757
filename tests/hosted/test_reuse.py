"""`--reuse`: a process serves one session after another, unless something is wrong with it."""

import subprocess

import pytest
from clients.stock import run
from openenv.core import GenericEnvClient

from hosted.conftest import ENVIRONMENTS, hosted_command
from hosted.processes import is_alive, wait_until

NAME = "leaving:Leaving"
REUSE = ("--reuse", "--spares", "0")


def session(server, *actions):
    """What a session's reset and steps show."""

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            told = [(await env.reset()).observation]
            for what in actions:
                told.append((await env.step({"what": what})).observation)
            return told

    return run(play())


def next_session(server, pid, *actions):
    """The first session that an ended one's process serves: it is free a moment after that has ended."""
    told = []

    def is_reused():
        told[:] = session(server, *actions)
        return told[0]["pid"] == pid

    wait_until(is_reused, 30)
    return told


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_process_serves_the_next_session_with_what_its_modules_hold(host, isolation):
    server = host(NAME, *REUSE, "--isolation", isolation)
    before = session(server, "module", "output")
    after = next_session(server, before[0]["pid"])
    assert "module" in after[0]["seen"] and after[0]["seen"][-1] == "closed"
    assert after[0]["roll"] not in [told["roll"] for told in before]
    assert "--reuse: a process whose session has ended serves the next one" in server.logged()


def test_files_and_children_of_a_session_are_not_the_next_one_s(host):
    folder = ENVIRONMENTS / "leaving_env"
    server = host(str(folder), *REUSE)
    before = session(server, "file", "child", "nothing")
    assert "left.txt" in before[3]["files"]
    after = next_session(server, before[0]["pid"], "nothing")
    assert not is_alive(before[2]["child"])
    assert after[0]["directory"] != before[0]["directory"]
    assert "left.txt" not in after[1]["files"] and "openenv.yaml" in after[1]["files"]
    assert after[0]["temporary"].rpartition("/")[0] != before[0]["temporary"].rpartition("/")[0]


def test_the_output_of_a_session_is_not_the_next_one_s(host):
    server = host(NAME, *REUSE)
    pid = session(server, "output")[0]["pid"]

    async def crash():
        async with GenericEnvClient(base_url=server.url) as env:
            used = (await env.reset()).observation["pid"]
            if used == pid:
                with pytest.raises(Exception, match="about to crash") as crashed:
                    await env.step({"what": "crash"})
                assert "a line of an earlier session" not in str(crashed.value)
            return used

    wait_until(lambda: run(crash()) == pid, 30)
    assert session(server)[0]["pid"] != pid


@pytest.mark.parametrize(
    ("what", "says"), [("thread", "has left threads: Thread-"), ("bad_close", "made to fail")]
)
def test_a_process_with_something_wrong_ends_with_its_session(host, what, says):
    server = host(NAME, *REUSE)
    pid = session(server, what)[0]["pid"]
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: says in server.logged())


def test_without_it_a_process_ends_with_its_session(host):
    server = host(NAME, "--spares", "0")
    pid = session(server)[0]["pid"]
    wait_until(lambda: not is_alive(pid))


def test_threads_of_one_process_have_nothing_to_use_again():
    command = hosted_command(NAME, "--reuse", "--isolation", "thread")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--reuse needs a process for each session" in done.stderr
