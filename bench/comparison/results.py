"""Rounds, and their reports.

In a round each measurement goes over all servers before the next one starts, and each round begins with
another server, so that a machine that gets slower or warmer does so for all of them.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from .measures import WITH_UPSTREAM, Load, Measure
from .servers import Missing, Program, Running, Server, resident_bytes, wait_until_idle, started

MIN_SESSIONS_OF_FULL_LOAD = 16
MIN_BUSY_SHARE = 0.85


@dataclass
class Run:
    """Every report: by server, by measurement, one for each round."""

    raw: dict[str, dict[str, list[dict]]] = field(default_factory=dict)

    def add(self, server: str, measure: str, report: dict) -> None:
        self.raw.setdefault(server, {}).setdefault(measure, []).append(report)

    def reports(self, server: str, measure: str) -> list[dict]:
        return self.raw.get(server, {}).get(measure, [])

    def values(self, server: str, measure: str, *keys: str) -> list[float]:
        """A figure of each round that has it."""
        found = []
        for report in self.reports(server, measure):
            value = report
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                found.append(value)
        return found

    def median(self, server: str, measure: str, *keys: str) -> float | None:
        values = self.values(server, measure, *keys)
        return statistics.median(values) if values else None

    def warnings(self) -> list[str]:
        """Errors, and reasons not to trust a figure."""
        found = [
            f"{server}, {measure}: {warning}"
            for server, measures in self.raw.items()
            for measure, reports in measures.items()
            for warning in warnings_of(measure, reports)
        ]
        return found + list(self.payload_differences())

    def payload_differences(self) -> Iterator[str]:
        """Measurements in which servers replied differently to the same request."""
        for measure in self.raw.get("oxenv", {}):
            ours = self.reply("oxenv", measure)
            theirs = {name: self.reply(name, measure) for name in ("bare", "rmcp", "fastmcp", "openenv-echo")}
            for name, reply in theirs.items():
                exact = name == "bare" and measure not in WITH_UPSTREAM
                if ours and reply and (ours != reply if exact else content(ours) != content(reply)):
                    yield f"{measure}: oxenv answers `{ours}` and {name} `{reply}`"

    def reply(self, server: str, measure: str) -> str | None:
        replies = (report.get("reply") for report in self.reports(server, measure))
        return next(filter(None, replies), None)


def content(reply: str) -> dict:
    """A reply without `_meta`, which names the server."""
    parsed = json.loads(reply)
    result = parsed.get("result")
    if isinstance(result, dict):
        result.pop("_meta", None)
    return parsed


def warnings_of(measure: str, reports: list[dict]) -> Iterator[str]:
    if failed := [report["failed"] for report in reports if "failed" in report]:
        yield f"{len(failed)} round(s) failed: {failed[0]}"
    if skipped := next((report["skipped"] for report in reports if "skipped" in report), None):
        yield f"skipped: {skipped}"
    if errors := sum(report.get("errors", 0) for report in reports):
        first = next(report["first_error"] for report in reports if report.get("errors"))
        yield f"{errors} error(s), the first: {first}"
    if disturbed := sum(not busy(report) for report in reports if measure not in WITH_UPSTREAM):
        yield (f"{disturbed} round(s) in which neither core was busy: something else was running on the "
               "machine")


def busy(report: dict) -> bool:
    """Whether the server or the load filled its core, as one of them must with many requests in flight."""
    shares = [report[key]["cpu_share"] for key in ("server", "load") if report.get(key)]
    return not shares or report["sessions"] < MIN_SESSIONS_OF_FULL_LOAD or max(shares) >= MIN_BUSY_SHARE


def run_round(run: Run, number: int, rounds: int, participants: list[Server | Program | Missing],
              measures: list[Measure], load: Load) -> None:
    with ExitStack() as stack:
        ready: list[Running | Program | Missing] = []
        for one in rotated(participants, number):
            if isinstance(one, Server):
                show_progress(f"round {number + 1} of {rounds}: starting {one.name}")
                one = stack.enter_context(started(one))
                record_start(run, one, measures)
                wait_until_idle(one)
            ready.append(one)
        for measure in measures:
            able = [one for one in ready if measure.kind in one.kinds and measure.kind != "start"]
            for one in rotated(able, number):
                show_progress(f"round {number + 1} of {rounds}: {measure.name} on {one.name}")
                run.add(one.name, measure.name, measured(measure, one, load))


def measured(measure: Measure, one: Running | Program | Missing, load: Load) -> dict:
    if isinstance(one, Missing):
        return {"skipped": one.reason}
    if isinstance(one, Program):
        return load.run_program(measure, one)
    report = load.run(measure, one)
    wait_until_idle(one)
    return report


def record_start(run: Run, one: Running, measures: list[Measure]) -> None:
    if "start" in one.server.kinds and any(measure.kind == "start" for measure in measures):
        report = {"start_ms": one.start_ms, "rss_bytes": resident_bytes(one.process.pid)}
        run.add(one.server.name, "start", report)


def rotated(participants: list, number: int) -> list:
    first = number % max(len(participants), 1)
    return participants[first:] + participants[:first]


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
