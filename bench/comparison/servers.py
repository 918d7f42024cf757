"""The servers under test: how each is started on its core, found healthy, and ended.

A server is a process group of its own that ends with the `with` block that started it, on every path.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Setup

SERVER_CORE = 0
START_TIMEOUT_S = 60
IDLE_TIMEOUT_S = 15
SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")

NAMES = ("oxenv", "oxenv-recording", "oxenv-metrics", "client", "client-stock", "openenv-client", "bare",
         "rmcp",
         "fastmcp", "openenv-echo", "openenv-typed", "openenv-pages", "hosted-echo", "hosted-typed",
         "hosted-pages", "hosted-echo-threads", "hosted-typed-threads", "hosted-pages-threads")
TOOLSETS, TOOLS_EACH = 50, 20


@dataclass(frozen=True)
class Server:
    """How to start one server. A name can have several servers, for different kinds of measurements."""

    name: str
    command: list[str]
    """`{port}` stands for the port."""
    kinds: frozenset[str]
    """The kinds of measurements that it takes part in."""
    has_health: bool = True
    idle_sessions: int = 256
    typed: bool = False
    tools: int = 0
    """How many tools it must list before it is measured: servers of tools start in their own time."""
    flags: tuple[str, ...] = ()
    """More arguments for the load generator."""


@dataclass(frozen=True)
class Program:
    """A program that measures itself and prints a report."""

    name: str
    command: list[str]
    """`{sessions}`, `{warmup}` and `{seconds}` stand for those of the measurement."""
    kinds: frozenset[str]


@dataclass(frozen=True)
class Missing:
    """A participant that is not available, and why."""

    name: str
    reason: str
    kinds: frozenset[str]


@dataclass
class Running:
    server: Server
    process: subprocess.Popen
    url: str
    start_ms: float
    log: Path = field(repr=False)

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def kinds(self) -> frozenset[str]:
        return self.server.kinds


def participants(root: Path, setup: Setup) -> list[Server | Program | Missing]:
    """All servers and programs that can take part."""
    bare, rmcp = str(setup.binaries / "oxenv-bare"), str(setup.binaries / "oxenv-rmcp")
    oxenv = [str(setup.binaries / "oxenv"), "serve", "--host", "127.0.0.1", "--port", "{port}"]
    manifests = setup.target / "compare"
    one = manifest(manifests / "one.yaml", [("echo", [rmcp, "stdio"])])
    many = manifest(
        manifests / "many.yaml",
        [(f"set{number}", [rmcp, "stdio", str(TOOLS_EACH), f"set{number}"]) for number in range(TOOLSETS)],
    )
    every = frozenset({"ws", "churn", "idle", "http", "mcp", "start"})
    proxy = frozenset({"proxy"})
    return [
        Server("oxenv", [*oxenv, "echo", "--max-sessions", "4096"], every | {"mcp-2026", "mcp-2025"},
               idle_sessions=2000),
        Server("oxenv", [*oxenv, "echo", "--max-sessions", "12000"], frozenset({"idle-10k"}),
               idle_sessions=10_000),
        Server("oxenv", [*oxenv, "echo"], frozenset({"hooks"})),
        Server("oxenv-recording", [*oxenv, "echo", "--record", "record"], frozenset({"hooks"})),
        Server("oxenv-metrics", [*oxenv, "echo", "--metrics"], frozenset({"hooks"})),
        Server("oxenv", [*oxenv, "echo"], frozenset({"client", "client-many"})),
        Server("client", [*oxenv, "echo"], frozenset({"client", "client-many"}), flags=("--client",)),
        Server("client-stock", [*oxenv, "echo"], frozenset({"client"}), flags=("--client=stock",)),
        Server("oxenv", [*oxenv, "--tools", one], proxy, tools=1),
        Server("oxenv", [*oxenv, "--tools", many], frozenset({"list"}), tools=TOOLSETS * TOOLS_EACH),
        Program("oxenv", [str(setup.binaries / "examples" / "toolbox")], frozenset({"toolbox"})),
        *(Program("oxenv", [str(setup.binaries / "examples" / name)], frozenset({name}))
          for name in ("forks", "multiplexer", "from_fleet", "from_docker_image")),
        Server("bare", [bare, "ws", "--port", "{port}"], frozenset({"ws", "churn", "idle"}),
               has_health=False, idle_sessions=2000),
        Server("bare", [bare, "http", "--port", "{port}"], frozenset({"http", "mcp", "start"})),
        Server("bare", [bare, "mcp", "--port", "{port}"], frozenset({"mcp-2026"})),
        Server("bare", [rmcp, "forward", "{port}", rmcp, "stdio"], proxy),
        Server("rmcp", [rmcp, "json", "{port}"], frozenset({"mcp-2026"})),
        Server("rmcp", [rmcp, "sse", "{port}"], frozenset({"mcp-2025"})),
        Program("rmcp", [rmcp, "calls", "{sessions}", "{warmup}", "{seconds}", rmcp, "stdio"], proxy),
        *python_servers(root, setup),
        *hosted_servers(root, setup, oxenv),
        *python_clients(root, setup),
    ]


def python_servers(root: Path, setup: Setup) -> list[Server]:
    every = frozenset({"ws", "churn", "idle", "http", "mcp", "start"})
    scripts = {
        "fastmcp": ("fastmcp_echo.py", frozenset({"mcp-2026"})),
        "openenv-echo": ("echo_tools.py", every),
        "openenv-typed": ("typed.py", every - {"mcp"}),
    }
    servers = [
        Server(name, [str(python), str(root / "bench" / "peers" / scripts[name][0]), "--port", "{port}"],
               scripts[name][1], has_health=name != "fastmcp", typed=name == "openenv-typed")
        for name, python in setup.pythons.items()
    ]
    pages = [
        Server("openenv-pages", [*each.command, "--pages"], frozenset({"pages"}), typed=True)
        for each in servers if each.name == "openenv-typed"
    ]
    return servers + pages


def hosted_servers(root: Path, setup: Setup, oxenv: list[str]) -> list[Server]:
    """The environments of the stock servers under ours, with the same Python."""
    kinds = frozenset({"ws", "churn", "start", "idle"})
    classes = {"hosted-echo": ("openenv-echo", "echo_tools:EchoTools", kinds),
               "hosted-typed": ("openenv-typed", "typed:Typed", kinds),
               "hosted-pages": ("openenv-typed", "typed:Pages", frozenset({"pages"}))}
    isolations = {"": "fork", "-threads": "thread"}
    path = f"PYTHONPATH={root / 'bench' / 'peers'}"
    common = ["--max-sessions", "4096", "--env", path]
    return [
        Server(name + suffix,
               [*oxenv, served, *common, "--python", str(setup.pythons[stock]), "--isolation", isolation],
               kinds, idle_sessions=1000, typed=name != "hosted-echo")
        for name, (stock, served, kinds) in classes.items()
        for suffix, isolation in isolations.items()
        if stock in setup.pythons
    ]


def python_clients(root: Path, setup: Setup) -> list[Program | Missing]:
    """The wheel's client and the stock one, each in a session of our server."""
    kinds = frozenset({"python"})
    script = [str(root / "bench" / "peers" / "python_session.py"), str(setup.binaries / "oxenv")]
    times = ["--warmup", "{warmup}", "--seconds", "{seconds}"]
    stock = Program("openenv-client", [str(setup.stock_client), *script, "openenv.core", *times], kinds)
    if setup.wheel is None:
        return [Missing("client", "no wheel of this build: run scripts/wheel --dist", kinds), stock]
    return [Program("client", [str(setup.wheel), *script, "oxenv", *times], kinds), stock]


def manifest(path: Path, upstreams: list[tuple[str, list[str]]]) -> str:
    """Writes a tools.yaml (JSON is YAML) of stdio servers that all sessions share."""
    tools = [
        {
            "name": name,
            "type": "mcp",
            "mcp_server": {"transport": "stdio", "command": command, "args": arguments},
            "scope": "server",
            "startup": "eager",
        }
        for name, (command, *arguments) in upstreams
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.0", "tools": tools}, indent=1), encoding="utf-8")
    return str(path)


@contextmanager
def started(server: Server) -> Iterator[Running]:
    """Starts a server on its core and ends it, with everything it started, when the block ends."""
    port = free_port()
    command = ["taskset", "-c", str(SERVER_CORE), *(part.format(port=port) for part in server.command)]
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd=folder,
            )
        try:
            wait_until_healthy(server, process, port, log)
            start_ms = (time.perf_counter() - began) * 1000
            wait_until_listed(server, process, port, log)
            yield Running(server, process, f"http://127.0.0.1:{port}", start_ms, log)
        finally:
            end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(server: Server, process: subprocess.Popen, port: int, log: Path) -> None:
    """Asks again and again without a pause: this core has nothing else to do until the server is there."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if healthy(port, server.has_health):
            return
        if process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with {process.returncode}: {tail(log)}")
    raise RuntimeError(f"{server.name} was not healthy after {START_TIMEOUT_S} s: {tail(log)}")


def healthy(port: int, has_health: bool) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            if not has_health:
                return True
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(4096).split(b"\r\n", 1)[0].split()[1:2] == [b"200"]
    except OSError:
        return False


def wait_until_listed(server: Server, process: subprocess.Popen, port: int, log: Path) -> None:
    """Waits until all its tools are there, as its upstreams start in their own time."""
    deadline, listed = time.monotonic() + START_TIMEOUT_S, 0
    while server.tools and time.monotonic() < deadline and process.poll() is None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/tools", timeout=START_TIMEOUT_S) as reply:
            listed = len(json.load(reply)["tools"])
        if listed == server.tools:
            return
        time.sleep(0.1)
    if server.tools:
        raise RuntimeError(f"{server.name} lists {listed} tools instead of {server.tools}: {tail(log)}")


def end(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=5)
            break
        except subprocess.TimeoutExpired:
            continue
    # What the server had started and left behind is in its group still.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_until_idle(running: Running) -> None:
    """Waits until the server has cleaned up after a load, so that it does not disturb the next one's turn."""
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    before = cpu_seconds(running.process.pid)
    while time.monotonic() < deadline:
        time.sleep(0.2)
        after = cpu_seconds(running.process.pid)
        if after - before <= SECONDS_PER_TICK:
            return
        before = after


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * SECONDS_PER_TICK


def resident_bytes(pid: int) -> int:
    """The memory of a server; if it has processes of its own, theirs too, what they share counted once."""
    pids = [pid, *descendants(pid)]
    kind = "Rss:" if len(pids) == 1 else "Pss:"
    return sum(memory(each, kind) for each in pids)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            found += [int(child), *descendants(int(child))]
    return found


def memory(pid: int, kind: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel gives no resident memory")


def tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").strip()[-2000:] or "it wrote nothing"
