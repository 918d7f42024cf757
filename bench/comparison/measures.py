"""What is measured, and the `oxenv bench` command that measures it.

The same payload goes to every server that takes it; the typed environment has no tools, so its action is a
message that makes the request as many bytes long.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .servers import Running

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
    """The subcommand of `oxenv bench`, or `start`, which is read off when a server starts."""
    sessions: int
    title: str


# What needs a fresh server comes first: memory that an earlier load has left free would hide what a session costs.
MEASURES = [
    Measure("start", "start", 0, "start to first healthy reply"),
    Measure("held", "held", 0, "held idle session"),
    Measure("ws-1", "ws", 1, "`/ws` step, 1 session"),
    Measure("ws-16", "ws", 16, "`/ws` step, 16 sessions"),
    Measure("ws-64", "ws", 64, "`/ws` step, 64 sessions"),
    Measure("ws-256", "ws", 256, "`/ws` step, 256 sessions"),
    Measure("mcp", "mcp", 32, "`POST /mcp` tools/call, 32 connections"),
    Measure("http", "http", 32, "`POST /step`, 32 connections"),
    Measure("churn", "churn", 16, "connect + reset + step + close, 16 at a time"),
]


@dataclass(frozen=True)
class Load:
    """The load generator, on a core of its own."""

    binary: Path
    seconds: float

    def run(self, measure: Measure, running: Running) -> dict:
        """The report of one measurement; `{"failed": reason}` if there is none."""
        command = ["taskset", "-c", str(LOAD_CORE), str(self.binary), "bench", measure.kind, "--json"]
        command += ["--url", running.url, "--pid", str(running.process.pid), "--duration", str(self.seconds)]
        if measure.kind == "held":
            command += ["--sessions", str(running.server.held_sessions)]
        else:
            command += ["--sessions", str(measure.sessions), "--warmup", str(WARMUP_S)]
            command += ["--message", compact(TYPED if running.server.typed else ECHO)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=180 + self.seconds, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": "the load did not end in time"}
        if done.returncode != 0:
            return {"failed": first_line(done.stderr)}
        return json.loads(done.stdout)


def first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "the load ended without a word"
