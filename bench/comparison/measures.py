"""What is measured, and the `oxenv bench` command that measures it.

The same payload goes to every server that takes it; the typed environment has no tools, so its action is a
message that makes the request as many bytes long.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .servers import SERVER_CORE, Program, Running

LOAD_CORE = 1
WARMUP_S = 1.0

ECHO = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": "hello"}}


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


TYPED = {"message": "x" * (len(compact(ECHO)) - len(compact({"message": ""})))}


@dataclass(frozen=True)
class Measure:
    name: str
    kind: str
    """What a server must be able to do. `start` is measured when a server starts; some kinds need no "
    "server."""
    sessions: int
    title: str
    load: tuple[str, ...] = ()
    """The arguments of `oxenv bench`; if empty, its subcommand is the kind."""


STATELESS = ("mcp", "--protocol", "2026-07-28")
HANDSHAKE = ("mcp", "--protocol", "2025-11-25")

# Measurements of memory come first: memory that an earlier load has freed would hide what a session costs.
MEASURES = [
    Measure("start", "start", 0, "start to first healthy reply"),
    Measure("idle", "idle", 0, "idle session"),
    Measure("idle-10k", "idle-10k", 0, "10,000 idle sessions", ("idle",)),
    Measure("ws-1", "ws", 1, "`/ws` step, 1 session"),
    Measure("ws-16", "ws", 16, "`/ws` step, 16 sessions"),
    Measure("ws-64", "ws", 64, "`/ws` step, 64 sessions"),
    Measure("ws-256", "ws", 256, "`/ws` step, 256 sessions"),
    Measure("pages", "pages", 16, "`/ws` step with an observation of 100 KB, 16 sessions", ("ws",)),
    Measure("mcp", "mcp", 32, "`POST /mcp` tools/call, OpenEnv's dialect, 32 connections"),
    Measure("http", "http", 32, "`POST /step`, 32 connections"),
    Measure("churn", "churn", 16, "connect + reset + step + close, 16 at a time"),
    Measure("mcp-2026", "mcp-2026", 32, "`POST /mcp` tools/call, MCP 2026-07-28, 32 connections", STATELESS),
    Measure("mcp-2025", "mcp-2025", 32, "`POST /mcp` tools/call, MCP 2025-11-25, 32 sessions", HANDSHAKE),
    Measure("proxy-1", "proxy", 1, "call of a stdio upstream's tool, 1 in flight", STATELESS),
    Measure("proxy-16", "proxy", 16, "call of a stdio upstream's tool, 16 in flight", STATELESS),
    Measure("list", "list", 1, "`POST /mcp` tools/list, 1,000 tools, 1 connection", (*STATELESS, "--list")),
    Measure("tools", "list", 1, "`GET /tools`, 1,000 tools, 1 connection", ("tools",)),
    Measure("hooks", "hooks", 64, "`/ws` step, 64 sessions, beside records and metrics", ("ws",)),
    Measure("client-64", "client", 64, "`/ws` step, 64 sessions, raw and through the Rust client", ("ws",)),
    Measure("client-many-64", "client-many", 64,
            "step, 64 sessions on one socket of `oxenv.1`, raw and through the Rust client",
            ("ws", "--multiplex")),
    Measure("python-1", "python", 1, "`/ws` step, 1 session, from Python"),
    Measure("multiplexer", "multiplexer", 0, "call of a tool through a multiplexer of two endpoints"),
    Measure("fleet", "from_fleet", 0, "`from_fleet` beyond the time that Fleet takes"),
    Measure("docker", "from_docker_image", 0, "`from_docker_image`, beside `docker run`"),
    Measure("forks", "forks", 0, "fork of a session of connect4, in process and over HTTP"),
    Measure("toolbox", "toolbox", 0, "call through a toolbox: owner among 1,000 tools, policy, rate limits"),
]
# Measurements in which upstreams use CPU time too.
WITH_UPSTREAM = ("proxy-1", "proxy-16")


@dataclass(frozen=True)
class Load:
    """The load generator, on a core of its own."""

    binary: Path
    seconds: float

    def run(self, measure: Measure, running: Running) -> dict:
        """The report of one measurement; `{"failed": reason}` if there is none."""
        load = measure.load or (measure.kind,)
        flags = running.server.flags
        command = ["taskset", "-c", str(LOAD_CORE), str(self.binary), "bench", *load, *flags, "--json"]
        command += ["--url", running.url, "--pid", str(running.process.pid), "--duration", str(self.seconds)]
        if load == ("idle",):
            command += ["--sessions", str(running.server.idle_sessions)]
        else:
            command += ["--sessions", str(measure.sessions), "--warmup", str(WARMUP_S)]
        if load != ("idle",) and measure.kind != "list":
            command += ["--message", compact(TYPED if running.server.typed else ECHO)]
        return self.run_command(command)

    def run_program(self, measure: Measure, program: Program) -> dict:
        """The report of a program that measures itself, in the place of a server."""
        values = {"sessions": measure.sessions, "warmup": WARMUP_S, "seconds": self.seconds}
        command = [part.format(**values) for part in program.command]
        return self.run_command(["taskset", "-c", str(SERVER_CORE), *command])

    def run_command(self, command: list[str]) -> dict:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=180 + self.seconds,
                                  check=False)
        except subprocess.TimeoutExpired:
            return {"failed": "the load generator did not end in time"}
        if done.returncode != 0:
            return {"failed": first_line(done.stderr)}
        return json.loads(done.stdout)


def first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "the load generator failed without a message"
