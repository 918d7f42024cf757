"""Runs the npm conformance suite and reads what it found.

Entry points: `run_suite` and `judge`. A check that the suite could not make (SKIPPED) or that is a
SHOULD (WARNING) is shown but not counted as failed, as the suite itself counts.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

from harness.components import node, npm_entry
from harness.server import clean_environment

REVISIONS = ["2025-11-25", "2026-07-28"]
SUITE_TIMEOUT_S = 300.0
# Extensions of the protocol, which no revision requires, are not among a revision's scenarios.
SUITE = "all"
# A client is not asked for what it does not offer: its credentials are the manifest's headers.
LEFT_OUT = {"server": (), "client": ("auth/",)}


@dataclass(frozen=True)
class Check:
    """One check of one scenario."""

    revision: str
    scenario: str
    id: str
    status: str
    message: str


@dataclass(frozen=True)
class Allowed:
    """A failing check that is explained."""

    side: str
    revision: str
    scenario: str
    check: str
    reason: str

    FILE = Path(__file__).with_name("allowed.toml")

    @staticmethod
    def load(file: Path) -> list["Allowed"]:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("allow", [])
        return [Allowed(**entry) for entry in entries]

    def covers(self, check: Check) -> bool:
        return (self.revision, self.scenario, self.check) == (check.revision, check.scenario, check.id)


@dataclass(frozen=True)
class Verdict:
    """What the allow-list leaves; both lists must be empty."""

    unexplained: list[Check]
    stale: list[Allowed]


def run_suite(side: str, revision: str, target: Sequence[str]) -> list[Check]:
    """Every check of one revision of the protocol."""
    with tempfile.TemporaryDirectory(prefix="oxenv-conformance-") as folder:
        command = [
            str(node()),
            str(npm_entry("@modelcontextprotocol/conformance", "conformance")),
            side,
            *target,
        ]
        command += ["--suite", SUITE, "--spec-version", revision, "-o", folder]
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=SUITE_TIMEOUT_S, env=clean_environment()
        )
        files = sorted(Path(folder).rglob("checks.json"))
        checks = [check for file in files for check in _read(side, revision, folder, file)]
    _agrees(finished, revision, checks)
    checks += _silent(finished, revision, checks)
    return [check for check in checks if not check.scenario.startswith(LEFT_OUT[side])]


def judge(checks: Sequence[Check], allowed: Sequence[Allowed]) -> Verdict:
    """Failures without an explanation, and explanations without a failure."""
    failed = [check for check in checks if check.status == "FAILURE"]
    return Verdict(
        unexplained=[check for check in failed if not any(entry.covers(check) for entry in allowed)],
        stale=[entry for entry in allowed if not any(entry.covers(check) for check in failed)],
    )


def markdown(side: str, checks: Sequence[Check], allowed: Sequence[Allowed]) -> str:
    """One line per scenario and revision, totals first, explained failures last."""
    lines = [f"| {side} scenario | revision | passed | failed | other |", "|---|---|---:|---:|---|"]
    for revision in dict.fromkeys(check.revision for check in checks):
        of_revision = [check for check in checks if check.revision == revision]
        lines.append(_row("**all**", revision, of_revision))
        for scenario in sorted({check.scenario for check in of_revision}):
            lines.append(
                _row(scenario, revision, [check for check in of_revision if check.scenario == scenario])
            )
    lines += [f"\nScenarios left out: {left_out}*" for left_out in LEFT_OUT[side]]
    if allowed:
        lines += ["", "Failures that are explained:", ""]
        lines += [
            f"- {entry.revision} `{entry.scenario}` `{entry.check}`: {entry.reason}" for entry in allowed
        ]
    return "\n".join(lines)


@contextmanager
def fixture_server(command: Sequence[str]) -> Iterator[str]:
    """Run a server whose first line is `listening on URL`, yield the URL, end it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline().strip()
        match = re.fullmatch(r"listening on (http://\S+)", first)
        if match is None:
            sys.exit(f"{command[0]}: the first line is {first!r}, not 'listening on URL'")
        yield match.group(1)
        if process.poll() is not None:
            sys.exit(f"{command[0]}: ended with {process.returncode} while it was tested")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _read(side: str, revision: str, folder: str, file: Path) -> Iterator[Check]:
    name = str(file.parent.relative_to(folder))
    scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", name)
    if side == "server":
        scenario = scenario.removeprefix("server-")
    for check in json.loads(file.read_text(encoding="utf-8")):
        yield Check(revision, scenario, check["id"], check["status"], check.get("errorMessage") or "")


def _agrees(finished: subprocess.CompletedProcess, revision: str, checks: Sequence[Check]) -> None:
    """The suite's own totals must be ours, or we misread it."""
    total = re.search(r"^Total: (\d+) passed, (\d+) failed", finished.stdout, re.M)
    counted = Counter(check.status for check in checks)
    if total is None or (int(total[1]), int(total[2])) != (counted["SUCCESS"], counted["FAILURE"]):
        told = finished.stdout[-2000:] + finished.stderr[-2000:]
        sys.exit(f"{revision}: the suite and its files disagree: {dict(counted)}\n{told}")


def _silent(finished: subprocess.CompletedProcess, revision: str, checks: Sequence[Check]) -> list[Check]:
    """A scenario that checked nothing has not passed."""
    summary = finished.stdout.rpartition("SUMMARY ===")[2]
    seen = {check.scenario for check in checks}
    scenarios = re.findall(r"^[✓✗-] ([^:\s]+):", summary, re.M)
    return [
        Check(revision, name, "any", "FAILURE", "it checked nothing")
        for name in scenarios
        if name not in seen
    ]


def _row(scenario: str, revision: str, checks: Sequence[Check]) -> str:
    counted = Counter(check.status for check in checks)
    passed, failed = counted.pop("SUCCESS", 0), counted.pop("FAILURE", 0)
    other = ", ".join(f"{count} {status.lower()}" for status, count in sorted(counted.items()))
    return f"| {scenario} | {revision} | {passed} | {failed} | {other} |"
