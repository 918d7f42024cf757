"""What the processes of a session write is kept for it, in bounded memory, and told on request."""

import json
import subprocess
import urllib.error
import urllib.request

import pytest
from harness.server import binary, clean_environment

from hosted.processes import wait_until

NAME = "misbehaving:Misbehaving"
MOST = 64 << 10


def ask(server, method, path, body=None):
    data = json.dumps(body or {}).encode() if method == "POST" else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def opened(server):
    session = ask(server, "POST", "/sessions")["session_id"]
    ask(server, "POST", f"/sessions/{session}/reset")
    return session


def step(server, session, what):
    return ask(server, "POST", f"/sessions/{session}/step", {"action": {"what": what}})


def log(server, session):
    kept = ask(server, "GET", f"/sessions/{session}/logs")
    assert kept["session_id"] == session
    return kept


def oxenv_logs(server, *words):
    command = [str(binary()), "logs", *words, "--url", server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=clean_environment())


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_session_has_its_own_output(host, isolation):
    server = host(NAME, "--isolation", isolation, "--spares", "1")
    session, other = opened(server), opened(server)
    step(server, session, "speak")
    wait_until(lambda: "said to stderr" in log(server, session)["text"])
    assert log(server, session)["text"] == "said to stdout\nsaid to stderr \x1b[31m\n"
    assert log(server, other) == {"session_id": other, "text": "", "dropped_bytes": 0}
    shown = oxenv_logs(server, session)
    assert (shown.stdout, shown.stderr) == ("said to stdout\nsaid to stderr \\u{1b}[31m\n", "")
    assert json.loads(oxenv_logs(server, session, "--json").stdout) == log(server, session)


def test_a_log_goes_on_in_the_next_process(host):
    server = host(NAME)
    session = opened(server)
    with pytest.raises(urllib.error.HTTPError):
        step(server, session, "exit")
    ask(server, "POST", f"/sessions/{session}/reset")
    step(server, session, "speak")
    wait_until(lambda: "said to stderr" in log(server, session)["text"])
    text = log(server, session)["text"]
    assert text.index("leaving on purpose") < text.index("said to stdout")


def test_a_log_is_bounded_and_its_losses_are_counted(host):
    server = host(NAME)
    session = opened(server)
    step(server, session, "noise")
    written = 300_001 + 100 * len(b"\xff\xfe not text\n") + 100_000
    wait_until(lambda: log(server, session)["dropped_bytes"] == written - MOST)
    assert log(server, session)["text"] == "\0" * MOST
    assert f"{written - MOST} bytes before this are not kept" in oxenv_logs(server, session).stderr


def test_a_log_is_told_beside_a_running_step(host):
    server = host(NAME, "--spares", "1")
    session = opened(server)
    with pytest.raises(TimeoutError):
        body = json.dumps({"action": {"what": "speak_and_hang"}}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": "beside"}
        request = urllib.request.Request(f"{server.url}/sessions/{session}/step", body, headers)
        urllib.request.urlopen(request, timeout=1)
    wait_until(lambda: "said to stderr" in log(server, session)["text"])
    ask(server, "DELETE", f"/sessions/{session}")


def test_what_has_no_log_is_told(host, serve):
    server = host(NAME)
    with pytest.raises(urllib.error.HTTPError) as unknown:
        log(server, "nobody")
    assert unknown.value.code == 404
    refused = oxenv_logs(server, "nobody")
    assert refused.returncode == 1 and "/sessions/nobody/logs: 404" in refused.stderr
    native = serve("echo")
    session = opened(native)
    with pytest.raises(urllib.error.HTTPError) as unsupported:
        log(native, session)
    said = json.load(unsupported.value)
    assert unsupported.value.code == 501 and "has no processes of its own" in said["detail"]
