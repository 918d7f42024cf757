"""What a session may use is limited, and going beyond it ends that session's episode alone."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from clients.stock import run
from harness.server import running, started
from openenv.core import GenericEnvClient

from hosted.conftest import hosted_command
from hosted.processes import wait_until

NAME = "greedy:Greedy"
BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"


def connect(server):
    return GenericEnvClient(base_url=server.url)


async def beyond(server, what, says):
    """Goes beyond a limit in one of two sessions, which ends its episode and not the other's."""
    async with connect(server) as other, connect(server) as env:
        before = (await other.reset()).observation["pid"]
        first = (await env.reset()).observation["pid"]
        with pytest.raises(Exception, match=f"(?s){says}.*reset the session"):
            await env.step({"what": what})
        assert (await env.reset()).observation["pid"] != first
        assert (await env.step({"what": "nothing"})).reward == 1.0
        assert (await other.step({"what": "nothing"})).observation["pid"] == before


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_session_that_needs_too_much_memory_ends(host, isolation):
    server = host(NAME, "--worker-memory", "200MiB", "--isolation", isolation, "--spares", "0")
    says = "needed more memory than the 200 MiB of --worker-memory.*about to fill the memory"
    run(beyond(server, "all_memory", says))
    assert re.search("limits of each session: memory 200 MiB by (cgroup|rlimit)", server.logged())


def test_a_session_that_uses_too_much_cpu_time_ends(host):
    server = host(NAME, "--worker-cpu-seconds", "1")
    says = "used up the 1 s of CPU time of --worker-cpu-seconds.*SIGXCPU.*about to use the CPU"
    run(beyond(server, "all_time", says))
    assert "1 s of CPU time by rlimit" in server.logged()


@pytest.mark.parametrize("what", ["fork_bomb", "threads"])
def test_a_fork_bomb_is_stopped(host, what):
    server = host(NAME, "--worker-processes", "20")

    async def play():
        async with connect(server) as other, connect(server) as env:
            await other.reset()
            await env.reset()
            seen = (await env.step({"what": what})).observation
            assert seen["children"] < 20 and seen["refused"]
            assert (await other.step({"what": "nothing"})).reward == 1.0

    run(play())


def without_groups(command):
    """A command that finds no control groups; whoever is not root has none to write to anyway."""
    isolated = ["unshare", "--mount"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode != 0:
        return command
    return [*isolated, "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh", *command]


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_rlimits_hold_where_there_are_no_control_groups(isolation):
    flags = ["--worker-memory", "300MiB", "--worker-cpu-seconds", "60", "--isolation", isolation]
    with running(without_groups(hosted_command(NAME, *flags)), BANNER) as server:
        says = "needed more memory than the 300 MiB of --worker-memory.*about to fill the memory.*MemoryError"
        run(beyond(server, "all_memory", says))
        assert "memory 300 MiB by rlimit" in server.logged()


def test_a_limit_that_cannot_hold_is_refused():
    command = without_groups(hosted_command(NAME, "--worker-processes", "4000"))
    if os.geteuid() != 0:
        with running(command, BANNER) as server:
            assert "4000 processes and threads by rlimit" in server.logged()
        return
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--worker-processes cannot hold here" in done.stderr


def groups(server):
    """The control groups of a server's workers."""
    return list(Path("/sys/fs/cgroup").glob(f"**/oxenv-{server.process.pid}/*/"))


def test_control_groups_end_with_their_workers_and_servers():
    command = hosted_command(NAME, "--worker-memory", "1GiB", "--worker-processes", "100", "--spares", "1")
    with started(command, BANNER) as killed:
        by_group = "by cgroup" in killed.logged()
        left = groups(killed)
        assert bool(left) == by_group
        killed.process.kill()
        killed.process.wait()
    wait_until(lambda: not any((group / "cgroup.procs").read_text() for group in left))
    with running(command, BANNER) as server:

        async def play():
            async with connect(server) as env:
                await env.reset()
                assert bool(groups(server)) == by_group

        run(play())
        assert not groups(killed)
    assert not groups(server)
