"""Starts the server under test and ends it on every path.

Entry points: `running(command, banner)` and `started(command, banner)`. Leaving the block of `running`
sends SIGTERM and asserts exit code 0 within the drain time; a failed block, and `started`, kill instead.
"""

import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0
# The design promises a drain within 5 s; the rest is for a loaded machine.
DRAIN_TIMEOUT_S = 8.0


@dataclass
class Server:
    """A server that answers, and where."""

    url: str
    process: subprocess.Popen
    log: Path

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname

    @property
    def port(self) -> int:
        return urlsplit(self.url).port

    @property
    def ws_url(self) -> str:
        return self.url.replace("http://", "ws://")

    def logged(self) -> str:
        return self.log.read_text(errors="replace")


def binary() -> Path:
    """The binary under test: OXENV_BIN, else the debug build."""
    if chosen := os.environ.get("OXENV_BIN"):
        return Path(chosen)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "debug" / "oxenv"


def serve_command(environment: str, *flags: str) -> tuple[list[str], str]:
    """The command that serves one environment, and the banner it must print."""
    command = [str(binary()), "serve", environment, "--port", "0", "--host", "127.0.0.1", *flags]
    return command, rf"oxenv: serving {re.escape(environment)} on (http://127\.0\.0\.1:\d+)"


def tools_command(manifest: Path, *flags: str, environment: str | None = None) -> tuple[list[str], str]:
    """The command that serves a manifest's tools, alone or with an environment, and its banner."""
    named = [environment] if environment else []
    command = [
        str(binary()),
        "serve",
        *named,
        "--tools",
        str(manifest),
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        *flags,
    ]
    return command, r"oxenv: serving .+ on (http://127\.0\.0\.1:\d+)"


def clean_environment() -> dict[str, str]:
    """Our environment without what would change the server or leave loopback."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OXENV_", "OPENENV_"))
        and name.lower() not in ("http_proxy", "https_proxy", "all_proxy", "max_concurrent_envs")
    }
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}


@contextmanager
def running(
    command: list[str],
    banner: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Server]:
    """Run `command`, yield the server its banner names, end it and see that it ends well."""
    with started(command, banner, env, cwd, start_timeout_s) as server:
        yield server
        _stop(server.process, server.log)


@contextmanager
def started(
    command: list[str],
    banner: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Server]:
    """Run `command`, yield the server its banner names, kill it if it still runs."""
    with tempfile.TemporaryDirectory(prefix="oxenv-tests-") as folder:
        log = Path(folder) / "stderr.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=clean_environment() | (env or {}),
                cwd=cwd,
            )
        try:
            url = _read_banner(process, banner, log, start_timeout_s)
            yield Server(url=url, process=process, log=log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


def _read_banner(process: subprocess.Popen, banner: str, log: Path, timeout_s: float) -> str:
    """The address on the first line of standard output."""
    deadline = time.monotonic() + timeout_s
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise AssertionError(f"no banner within {timeout_s} s; stderr:\n{log.read_text()}")
            byte = os.read(process.stdout.fileno(), 1)
            if not byte:
                raise AssertionError(
                    f"server ended with {process.wait()} before its banner; stderr:\n{log.read_text()}"
                )
            line += byte
    match = re.fullmatch(banner, line.decode().rstrip("\r\n"))
    if match is None:
        raise AssertionError(f"first line of stdout is {line!r}, not {banner!r}")
    return match.group(1)


def _stop(process: subprocess.Popen, log: Path) -> None:
    """SIGTERM, then exit code 0 within the drain time."""
    assert process.poll() is None, f"server ended by itself with {process.returncode}:\n{log.read_text()}"
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(DRAIN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no exit within {DRAIN_TIMEOUT_S} s of SIGTERM:\n{log.read_text()}") from None
    assert code == 0, f"exit code {code} after SIGTERM:\n{log.read_text()}"
