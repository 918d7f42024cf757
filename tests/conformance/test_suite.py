"""The runner is honest: what fails fails the run, and an explanation that explains nothing does too.

server-everything knows neither the suite's fixtures nor the newest revision, so it fails a lot of checks.
"""

import subprocess
import sys
from pathlib import Path

from conformance.suite import Allowed, Check, judge, run_suite
from harness import everything

RUN = Path(__file__).with_name("run")


def test_a_server_that_fails_is_told_by_check():
    with everything.over_http() as url:
        checks = run_suite("server", "2025-11-25", ["--url", url])
        command = [sys.executable, str(RUN), "server", "--revision", "2025-11-25", "--url", url]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    failed = [check for check in checks if check.status == "FAILURE"]
    assert failed and [check for check in checks if check.status == "SUCCESS"]
    assert run.returncode == 1
    assert run.stdout.count("FAILED: ") == len(failed)


def test_a_scenario_that_checked_nothing_has_failed():
    """A client that does nothing at all."""
    checks = run_suite("client", "2025-11-25", ["--command", "true"])
    assert [check.scenario for check in checks if check.message == "it checked nothing"] == ["initialize"]
    assert "SUCCESS" not in {check.status for check in checks}


def test_the_allow_list_covers_exactly_what_it_names():
    failing = Check("2025-11-25", "ping", "ping", "FAILURE", "no answer")
    right = Allowed("server", "2025-11-25", "ping", "ping", "a reason")
    other = Allowed("server", "2026-07-28", "ping", "ping", "a reason")
    verdict = judge([failing], [right])
    assert (verdict.unexplained, verdict.stale) == ([], [])
    verdict = judge([failing], [other])
    assert (verdict.unexplained, verdict.stale) == ([failing], [other])
