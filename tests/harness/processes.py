"""Processes as /proc shows them: who descends from whom, and whether anybody is left.

A process is known by its number and its start time together, because numbers are used again.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

PROC = Path("/proc")
POLL_S = 0.02


@dataclass(frozen=True)
class Process:
    """One process, and the command line it had when it was seen."""

    pid: int
    started: int
    parent: int
    command: str

    def lives(self) -> bool:
        now = read(self.pid)
        return now is not None and now.started == self.started

    def send(self, number: signal.Signals) -> None:
        if self.lives():
            os.kill(self.pid, number)


def read(pid: int) -> Process | None:
    """The process of that number, unless it is gone or only waits to be reaped."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        command = (
            (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so the fields are counted from its end.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]), int(fields[1]), command)


def descendants(pid: int) -> list[Process]:
    """All processes below that one, children first."""
    everybody = [
        process for entry in PROC.iterdir() if entry.name.isdigit() and (process := read(int(entry.name)))
    ]
    found: list[Process] = []
    parents = {pid}
    while parents:
        children = [process for process in everybody if process.parent in parents]
        found += children
        parents = {child.pid for child in children}
    return found


def running(words: str, processes: Iterable[Process]) -> list[Process]:
    """Those that run a program with these words in its command line.

    Their supervisors have the words too. There may be several, because servers are kept warm for sessions to
    come.
    """
    found = [
        process for process in processes if words in process.command and " supervise " not in process.command
    ]
    assert found, f"no process runs {words!r}"
    return found


def left_after(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Those that still live when the time is over; returns as soon as there are none."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if process.lives()]:
        if time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
    return []
