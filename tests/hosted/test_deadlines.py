"""A reset has a deadline, a process that was stopped holds nobody up, and a server ends in its time."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from harness.server import clean_environment, running, started

from hosted.conftest import hosted_command
from hosted.processes import command_of, descendants, is_alive, wait_until

NAME = "misbehaving:Misbehaving"
BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"


def ask(server, method, path, body=None):
    data, headers = json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def refused(server, path, body=None):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, "POST", path, body)
    return error.value.code, json.load(error.value)


def pythons(server):
    """The processes of the environment: with forks the template first, then its children."""
    below = sorted(descendants(server.process.pid))
    return [pid for pid in below if b"worker.py" in command_of(pid) and b"supervise" not in command_of(pid)]


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_reset_that_never_returns_ends_at_its_deadline(host, isolation):
    server = host(NAME, "--reset-timeout", "1s", "--isolation", isolation)
    first = ask(server, "POST", "/reset")["observation"]["pid"]
    status, said = refused(server, "/reset", {"what": "hang"})
    assert status == 504 and "did not finish its reset within 1 s" in said["detail"]
    assert said["oxenv"] == {
        "code": "DEADLINE_EXCEEDED",
        "kind": "timeout",
        "phase": "reset",
        "delivered": "maybe",
        "retryable": False,
    }
    status, said = refused(server, "/step", {"action": {"what": "nothing"}})
    assert status == 409 and "the last reset failed" in said["detail"]
    again = ask(server, "POST", "/reset")["observation"]["pid"]
    assert again != first
    assert ask(server, "POST", "/step", {"action": {"what": "nothing"}})["reward"] == 1.0
    wait_until(lambda: not is_alive(first))


def test_a_step_after_a_reset_that_failed_says_so(host):
    server = host(NAME)
    ask(server, "POST", "/reset")
    status, said = refused(server, "/reset", {"what": "exit_at_once"})
    assert status == 500 and said["oxenv"]["kind"] == "infrastructure"
    status, said = refused(server, "/step", {"action": {"what": "nothing"}})
    assert status == 409 and "the last reset failed" in said["detail"]
    assert ask(server, "POST", "/reset")["observation"]["pid"]


def test_a_spare_that_was_stopped_is_replaced(host):
    server = host(NAME, "--spares", "1")
    session = ask(server, "POST", "/reset")["observation"]["pid"]
    wait_until(lambda: len(pythons(server)) == 3)
    stopped = [pid for pid in pythons(server)[1:] if pid != session]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    opened = ask(server, "POST", "/sessions")["session_id"]
    pid = ask(server, "POST", f"/sessions/{opened}/reset")["observation"]["pid"]
    assert pid not in stopped
    ask(server, "DELETE", f"/sessions/{opened}")
    for pid in stopped:
        wait_until(lambda pid=pid: not is_alive(pid))


def test_a_worker_that_was_stopped_is_replaced(host):
    server = host(NAME, "--reset-timeout", "1s")
    opened = ask(server, "POST", "/sessions")["session_id"]
    pid = ask(server, "POST", f"/sessions/{opened}/reset")["observation"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert refused(server, f"/sessions/{opened}/reset")[0] == 504
    wait_until(lambda: not is_alive(pid))
    pid = ask(server, "POST", f"/sessions/{opened}/reset")["observation"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    ask(server, "DELETE", f"/sessions/{opened}")
    wait_until(lambda: not is_alive(pid))


def test_a_template_that_was_stopped_is_replaced(host):
    server = host(NAME, "--spares", "0")
    pid = ask(server, "POST", "/reset")["observation"]["pid"]
    template = pythons(server)[0]
    os.kill(template, signal.SIGSTOP)
    opened = ask(server, "POST", "/sessions")["session_id"]
    assert ask(server, "POST", f"/sessions/{opened}/reset")["observation"]["pid"] != pid
    assert ask(server, "POST", "/step", {"action": {"what": "nothing"}})["observation"]["pid"] == pid


def test_a_server_ends_while_it_imports():
    command = hosted_command("slow_import:Environment")
    process = subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(command_of(pid).endswith(b"template\0") for pid in descendants(process.pid)))
        started_here = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        wait_until(lambda: not any(map(is_alive, started_here)))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_server_ends_beside_a_stuck_step(isolation):
    command = hosted_command(NAME, "--drain-timeout", "1s", "--isolation", isolation)
    with started(command, BANNER) as server:
        ask(server, "POST", "/reset")
        stuck = threading.Thread(target=refused, args=(server, "/step", {"action": {"what": "hang"}}))
        stuck.start()
        pid = pythons(server)[-1]
        wait_until(lambda: blocks_sigterm(pythons(server)))
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0, server.logged()
        assert time.monotonic() - began < 3
        stuck.join()
        wait_until(lambda: not is_alive(pid))


def blocks_sigterm(pids):
    """Whether one of these processes is in the stuck step, which blocks the signal."""
    bit = 1 << (signal.SIGTERM - 1)
    for pid in pids:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            blocked = next(line.split()[1] for line in file if line.startswith("SigBlk"))
        if int(blocked, 16) & bit:
            return True
    return False


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_descriptors_of_the_shell_are_not_inherited(isolation):
    command = ["sh", "-c", 'exec 9</dev/zero && exec "$@"', "sh"]
    flags = ["--isolation", isolation, "--spares", "0"]
    with running([*command, *hosted_command(NAME, *flags)], BANNER) as server:
        session = ask(server, "POST", "/reset")["observation"]["pid"]
        for pid in {pythons(server)[0], session}:
            links = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
            assert links and "/dev/zero" not in links
