"""Forks of a session: processes that go on from its present state, and share nothing with it."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.plain_http import exchange, post
from harness.server import binary, clean_environment

from hosted.conftest import ENVIRONMENTS
from hosted.processes import is_alive, wait_until

NAME = "forking_env"


def ask(server, path, body=None):
    reply = post(server.url + path, body or {})
    assert reply.status in (200, 201), reply.json()
    return reply.json()


def opened(server, **body):
    session = ask(server, "/sessions", body)["session_id"]
    return session, ask(server, f"/sessions/{session}/reset")["observation"]


def step(server, session, what="nothing"):
    return ask(server, f"/sessions/{session}/step", {"action": {"what": what}})["observation"]


def fork(server, session, n=1):
    return [each["session_id"] for each in ask(server, f"/sessions/{session}/fork", {"n": n})["sessions"]]


def refusal(server, session):
    reply = post(f"{server.url}/sessions/{session}/fork", {"n": 1})
    assert (reply.status, reply.json()["oxenv"]["code"]) == (501, "UNSUPPORTED")
    return reply.json()["detail"]


def close(server, session):
    assert exchange("DELETE", f"{server.url}/sessions/{session}").status in (200, 204)


def same(seen):
    """What does not depend on the process."""
    return {key: value for key, value in seen.items() if key != "process"}


def test_a_fork_goes_on_as_its_original_would(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "note before")
    one, other = fork(server, session, 2)
    seen = [step(server, each) for each in (session, one, other)]
    assert same(seen[0]) == same(seen[1]) == same(seen[2])
    assert (seen[0]["steps"], seen[0]["notes"]) == (2, "before\n")
    assert len({each["process"] for each in seen}) == 3
    # As often as they like: the numbers that they draw stay equal.
    assert same(step(server, one)) == same(step(server, session)) == same(step(server, other))


def test_files_are_each_ones_own(host):
    server = host(NAME)
    session, began = opened(server)
    step(server, session, "note before")
    step(server, session, "file both")
    (one,) = fork(server, session)
    step(server, session, "note of the original")
    step(server, session, "file original")
    step(server, one, "note of the fork")
    step(server, one, "file fork")
    original, forked = step(server, session), step(server, one)
    assert original["notes"] == "before\nof the original\n"
    assert forked["notes"] == "before\nof the fork\n"
    assert sorted(set(original["files"]) - set(began["files"])) == ["both", "original"]
    assert sorted(set(forked["files"]) - set(began["files"])) == ["both", "fork"]
    assert not os.path.exists(os.path.join(os.getcwd(), "both"))


def test_a_fork_of_a_fork_outlives_both(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "note one")
    (one,) = fork(server, session)
    step(server, one, "note two")
    (other,) = fork(server, one)
    processes = [step(server, each)["process"] for each in (session, one)]
    close(server, session)
    close(server, one)
    wait_until(lambda: not any(map(is_alive, processes)))
    seen = step(server, other, "note three")
    assert seen["notes"] == "one\ntwo\nthree\n"
    (last,) = fork(server, other)
    assert step(server, last)["notes"] == seen["notes"]
    # A reset makes a new episode in the same process, whose files stay its own.
    ask(server, f"/sessions/{last}/reset")
    assert step(server, last)["steps"] == 1


def test_the_end_of_a_process_ends_its_own_episode_alone(host):
    server = host(NAME)
    session, _ = opened(server)
    one, other = fork(server, session, 2)
    process = step(server, one)["process"]
    reply = post(f"{server.url}/sessions/{one}/step", {"action": {"what": "leave"}})
    assert reply.status == 500 and "exited with code 3" in reply.body.decode()
    wait_until(lambda: not is_alive(process))
    os.kill(step(server, session)["process"], signal.SIGKILL)
    assert step(server, other)["steps"] == 1
    assert ask(server, f"/sessions/{one}/reset")["observation"]["steps"] == 0


def test_each_has_a_log_of_its_own(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "print of the original")
    (one,) = fork(server, session)
    step(server, one, "print of the fork")

    def log(session):
        command = [str(binary()), "logs", session, "--url", server.url]
        return subprocess.run(command, capture_output=True, text=True, env=clean_environment()).stdout

    wait_until(lambda: "fork" in log(one))
    assert log(one) == "of the fork\n"
    assert log(session) == "of the original\n"


def test_signals_reach_the_loop_of_each(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "handle signals")
    (one,) = fork(server, session)
    assert step(server, one, "signal")["signals"] == 1
    assert step(server, session)["signals"] == 0
    assert step(server, session, "signal")["signals"] == 1


def test_what_was_not_written_yet_is_written_by_each(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "redirect")
    step(server, session, "print before")
    forks = fork(server, session, 3)
    for each in [session, *forks]:
        step(server, each, "print after")
        step(server, each, "flush")
        assert step(server, each)["output"] == "before\nafter\n"


def test_duplicates_of_a_descriptor_go_on_as_one(host):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "duplicate")
    step(server, session, "write a")
    (one,) = fork(server, session)
    for each in (session, one):
        assert step(server, each, "write b")["output"] == "aabb"


def test_an_event_loop_of_the_import_is_each_sessions_own(host):
    server = host("forking:Looping", "--env", f"PYTHONPATH={ENVIRONMENTS / NAME}", "--cwd", "shared")
    sessions = [opened(server)[0] for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(lambda session: step(server, session), sessions))
    assert len({each["process"] for each in seen}) == 4


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("thread", "it runs 2 threads"),
        ("process", "it has started processes that it has not waited for"),
        ("socket", "it has open what two processes cannot share: socket:["),
        ("deleted", "it has a deleted file open"),
        ("memory", "it shares memory with other processes (/dev/zero"),
        ("database", "it has the SQLite database"),
    ],
)
def test_what_two_processes_cannot_both_have_is_refused(host, what, why):
    server = host(NAME)
    session, _ = opened(server)
    step(server, session, "start " + what)
    assert f"the environment cannot be forked: {why}" in refusal(server, session)
    assert step(server, session)["steps"] == 2
    # A session without it can be.
    assert fork(server, opened(server)[0])


@pytest.mark.parametrize(
    ("isolation", "why"),
    [("fresh", "each of its sessions is a Python of its own"), ("thread", "threads of one process")],
)
def test_what_was_not_forked_itself_is_refused(host, isolation, why):
    server = host("together:Together", "--isolation", isolation)
    session = ask(server, "/sessions")["session_id"]
    ask(server, f"/sessions/{session}/reset")
    assert why in refusal(server, session)


def test_nothing_stays_of_forks(host):
    server = host(NAME)
    session, _ = opened(server)
    forks = fork(server, session, 8)
    processes = [step(server, each)["process"] for each in [session, *forks]]
    for each in [session, *forks]:
        close(server, each)
    wait_until(lambda: not any(map(is_alive, processes)))
