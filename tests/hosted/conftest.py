"""Servers of environments written in Python: each is started once for the tests of a file."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Iterator

import pytest
from harness.server import Server, binary, running

ENVIRONMENTS = Path(__file__).parent / "environments"


def hosted_command(name: str, *flags: str) -> list[str]:
    """The command that serves an environment of this folder, or of tests/, with this Python."""
    path = f"PYTHONPATH={ENVIRONMENTS}:{ENVIRONMENTS.parent.parent}"
    served = str(ENVIRONMENTS / name) if (ENVIRONMENTS / name).is_dir() else name
    address = ["--port", "0", "--host", "127.0.0.1"]
    return [str(binary()), "serve", served, "--python", sys.executable, "--env", path, *address, *flags]


@pytest.fixture(scope="module")
def host() -> Iterator[Callable[..., Server]]:
    """`host("kinds:Dice")` starts a server, or gives the one that is started with the same words."""
    with ExitStack() as servers:
        started: dict[tuple[str, ...], Server] = {}

        def serve(name: str, *flags: str) -> Server:
            words = (name, *flags)
            if words not in started:
                banner = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"
                started[words] = servers.enter_context(running(hosted_command(name, *flags), banner))
            return started[words]

        yield serve
