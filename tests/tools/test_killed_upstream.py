"""An upstream is killed while everybody calls: only its own calls fail, none is repeated, and it comes
back."""

import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from harness import components, everything
from harness.plain_http import get, post
from harness.processes import descendants, running
from tools.doors import dialect
from tools.mixed import write_manifest

VICTIM = "server-everything"
# What each of the others must have done before and after the kill.
ROUNDS = 10
# The time for a restart of a Node or Python program on a machine that does much else.
RETURN_TIMEOUT_S = 60.0


class Load:
    """One caller of one tool, in a loop until it is told to stop; counts what came of it."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self.outcomes: list[str] = []
        self._call = call
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def count(self, outcome: str) -> int:
        return self.outcomes.count(outcome)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(RETURN_TIMEOUT_S)
        assert not self._thread.is_alive(), "a call never ended"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._call(len(self.outcomes))
                self.outcomes.append("ok")
            except Exception as error:  # whatever is wrong with a call is counted and shown
                self.outcomes.append(str(error)[:500])
                # A refused call costs nothing, so that without a pause it would be the load.
                self._stop.wait(0.02)


def until(true: Callable[[], bool], what: str, seconds: float = RETURN_TIMEOUT_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)


def test_killed_under_load(mixed, tmp_path, serve_tools, capsys):
    received = tmp_path / "received.jsonl"
    received.touch()
    entries = json.loads(mixed.manifest.read_text())["tools"]
    entries = [entry for entry in entries if entry["name"] not in ("everything", "github")]
    entries.append(components.recorded(components.everything(), received).in_manifest("victim"))
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", entries))
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    calls = [call for call in mixed.calls() if call.toolset != "everything"]
    expected = [dialect(server.url, call.name, call.arguments) for call in calls]

    def caller(at: int) -> Callable[[int], None]:
        call = calls[at]

        def once(_: int) -> None:
            assert dialect(server.url, call.name, call.arguments) == expected[at]

        return once

    def of_the_victim(thread: int) -> Callable[[int], None]:
        def once(number: int) -> None:
            message = f"{thread}-{number}"
            assert message in dialect(server.url, "victim__echo", {"message": message}).text

        return once

    others = [Load(caller(at)) for at in range(len(calls))]
    victims = [Load(of_the_victim(thread)) for thread in range(2)]
    everybody = [*others, *victims]
    until(lambda: all(load.count("ok") >= ROUNDS for load in everybody), "a load on every server")

    with ThreadPoolExecutor(1) as pool:
        long_one = {"duration": 120, "steps": 120}
        long = pool.submit(raw_call, server.url, "victim__trigger-long-running-operation", long_one)
        until(lambda: "trigger-long-running-operation" in received.read_text(), "a call in flight")
        for process in running(VICTIM, descendants(server.process.pid)):
            process.send(signal.SIGKILL)
        failed = long.result(timeout=RETURN_TIMEOUT_S)

    done = [load.count("ok") for load in everybody]
    until(
        lambda: all(load.count("ok") >= was + ROUNDS for load, was in zip(everybody, done)),
        "every server, the killed one among them, works",
    )
    for load in everybody:
        load.stop()

    # The call in flight was told what happened to it, at once.
    error = failed["error"]
    assert "victim" in error["message"], error
    assert error["data"]["oxenv"]["code"] == "UPSTREAM_LOST", error
    lost = [outcome for load in others for outcome in load.outcomes if outcome != "ok"]
    assert lost == [], Counter(lost)

    # Each message was sent once at most, and each that was answered exactly once.
    times = Counter(message_of(line) for line in received.read_text().splitlines() if "tools/call" in line)
    assert all(count == 1 for count in times.values()), times
    answered = sum(load.count("ok") for load in victims)
    refused = [outcome for load in victims for outcome in load.outcomes if outcome != "ok"]
    assert all("victim" in outcome for outcome in refused), Counter(refused)
    with capsys.disabled():
        print(
            f"\nkilled one of {len(entries)} upstreams under load: "
            f"{sum(load.count('ok') for load in others)} calls to the others, 0 lost; "
            f"{answered} calls to it answered, {len(refused)} refused, 1 in flight lost"
        )


def raw_call(url: str, name: str, arguments: dict) -> dict:
    """The whole reply, whatever it is."""
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    }
    return post(f"{url}/mcp", request, timeout_s=150.0).json()


def message_of(line: str) -> str:
    arguments = json.loads(line)["params"]["arguments"]
    return arguments.get("message", "the long one")


def test_a_call_that_may_have_arrived_is_not_repeated(tmp_path, serve_tools):
    """The server is stopped, is sent an INSERT, and is killed before it reads it."""
    received = tmp_path / "received.jsonl"
    received.touch()
    database = components.sqlite(str(tmp_path / "notes.db"))
    entry = components.recorded(database, received).in_manifest("database")
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [entry]))
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    dialect(server.url, "create_table", {"query": "CREATE TABLE notes (text TEXT)"})

    for process in running("mcp-server-sqlite", descendants(server.process.pid)):
        process.send(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        insert = {"query": "INSERT INTO notes VALUES ('once at most')"}
        inserted = pool.submit(raw_call, server.url, "write_query", insert)
        until(lambda: "once at most" in received.read_text(), "the call to arrive")
        for process in running("mcp-server-sqlite", descendants(server.process.pid)):
            process.send(signal.SIGKILL)
        error = inserted.result(timeout=RETURN_TIMEOUT_S)["error"]
    assert (
        error["data"]["oxenv"] | {"code": "UPSTREAM_LOST", "delivered": "maybe"} == error["data"]["oxenv"]
    ), error

    count = {"query": "SELECT count(*) AS rows FROM notes"}
    until(lambda: "result" in raw_call(server.url, "read_query", count), "the server to come back")
    assert "{'rows': 0}" in dialect(server.url, "read_query", count).text
    assert received.read_text().count("once at most") == 1


def test_a_remote_server_that_restarts_knows_its_session_no_more(tmp_path, serve_tools):
    port = everything.free_port()
    entry = {"name": "remote", "type": "mcp", "mcp_server": {"url": f"http://127.0.0.1:{port}/mcp"}}
    with everything.over_http(port):
        server = serve_tools(write_manifest(tmp_path / "tools.yaml", [entry]))
        assert "first" in dialect(server.url, "echo", {"message": "first"}).text
    failed = raw_call(server.url, "echo", {"message": "nobody is there"})["error"]
    assert "remote" in failed["message"], failed
    with everything.over_http(port):
        until(
            lambda: "result" in raw_call(server.url, "echo", {"message": "again"}),
            "the server to be found again",
        )


def test_one_that_never_starts_hides_no_other(tmp_path, mixed, serve_tools):
    broken = {"name": "broken", "type": "mcp", "mcp_server": {"command": "false", "transport": "stdio"}}
    manifest = write_manifest(tmp_path / "tools.yaml", [broken, components.time().in_manifest("time")])
    server = serve_tools(manifest)
    tools = get(f"{server.url}/tools", timeout_s=60.0).json()
    assert {tool["toolset"] for tool in tools["tools"]} == {"time"}
    assert "broken" in json.dumps(tools), "/tools names what is missing"
    assert b"broken" in get(f"{server.url}/ready").body
    noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "UTC"}
    assert "12:00" in dialect(server.url, "convert_time", noon).text
