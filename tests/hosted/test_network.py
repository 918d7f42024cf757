"""`--worker-network none`: sessions reach nobody, each in a network of its own."""

import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from clients.stock import run
from harness.server import running
from openenv.core import GenericEnvClient

from hosted.conftest import hosted_command
from hosted.processes import is_alive, wait_until

NAME = "network:Network"
NONE = ("--worker-network", "none")
BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"


def is_allowed(*command):
    return subprocess.run([*command, "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def needs_namespaces():
    if not (is_allowed("unshare", "--net") or is_allowed("unshare", "--user", "--net")):
        pytest.skip("namespaces are not allowed here")


async def ask_two_sessions(server):
    """Each listens at the same port; gives the numbers of their processes."""
    port = urlsplit(server.url).port
    async with GenericEnvClient(base_url=server.url) as one, GenericEnvClient(base_url=server.url) as two:
        pids = []
        for env in (one, two):
            seen = (await env.reset()).observation
            assert seen["at_import"] == seen["interfaces"] == ["lo"]
            assert (await env.step({"port": port})).observation["reached"] is False
            own = (await env.step({})).observation
            assert own["reached"]
            pids.append(own["pid"])
        assert pids[0] != pids[1]
        return pids


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_session_reaches_itself_alone(host, isolation):
    server = host(NAME, *NONE, "--isolation", isolation)
    for pid in run(ask_two_sessions(server)):
        wait_until(lambda pid=pid: not is_alive(pid))
    said = "--worker-network none: each session has a loopback of its own, and no other network"
    assert said in server.logged()


def test_user_namespaces_will_do():
    """The command has no capability but the one that root needs for a user namespace; others need none."""
    if not is_allowed("unshare", "--user", "--net"):
        pytest.skip("namespaces are not allowed here")
    drop, set_file_capabilities = 24, 31
    without = "import ctypes, os, sys; prctl = ctypes.CDLL(None).prctl\n"
    without += f"[prctl({drop}, each, 0, 0, 0) for each in range(41) if each != {set_file_capabilities}]\n"
    without += "os.execvp(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", without, *hosted_command(NAME, *NONE)]
    with running(command, BANNER) as server:
        run(ask_two_sessions(server))


def test_by_default_the_network_is_the_server_s(host):
    server = host(NAME)

    async def play():
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            return (await env.step({"port": urlsplit(server.url).port})).observation["reached"]

    assert run(play())


def test_where_it_is_not_allowed_the_start_fails():
    refused = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    limit = "echo 0 > /proc/sys/user/max_net_namespaces && exec "
    if not is_allowed(*refused, limit + "env"):
        pytest.skip("namespaces are not allowed here")
    command = [*refused, limit + '"$@"', "sh", *hosted_command(NAME, *NONE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--worker-network none cannot hold here: " in done.stderr and "unshare: " in done.stderr
    assert "run as root" in done.stderr


def test_threads_have_the_network_of_their_process():
    command = hosted_command(NAME, *NONE, "--isolation", "thread")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--worker-network none needs a process for each session" in done.stderr
