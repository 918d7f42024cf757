"""What the tests need: servers of the binary under test, and programs that use the package.

`serve("echo")` starts a server; each must end well after SIGTERM. The binary is OXENV_BIN's, else the wheel's
own.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import oxenv

os.environ.setdefault("OXENV_BIN", str(oxenv.binary()))

from harness.server import Server, clean_environment, running, serve_command  # noqa: E402

# A shell starts what it puts into the background with Ctrl-C ignored, which programs under test would
# inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: How long something that happens in the background may take on a loaded machine.
SOON_S = 20.0


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as servers:
        yield lambda environment, *flags: servers.enter_context(running(*serve_command(environment, *flags)))


@contextmanager
def started_hosted(name: str, folder: Path, *flags: str) -> Iterator[str]:
    """The address of a server of an environment in Python: `module:Class` of a folder, with this Python."""
    address = ["--port", "0", "--host", "127.0.0.1", "--python", sys.executable]
    command = [os.environ["OXENV_BIN"], "serve", name, *address, *flags]
    with running(command, r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)", cwd=folder) as server:
        yield server.url


def sessions(url: str) -> list[dict[str, Any]]:
    """The sessions that a server has."""
    with urllib.request.urlopen(f"{url}/sessions") as reply:
        return json.load(reply)["sessions"]


def eventually(holds: Callable[[], Any]) -> None:
    """Returns when it holds; what was begun in the background is seen from outside only."""
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.01)


def program(source: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A program of its own that uses the package."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment() | {"OXENV_BIN": os.environ["OXENV_BIN"]} | variables,
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a program printed, once it has ended as it should."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out
