"""Servers of the folders in examples/hosted, whose Python is another one than that of these tests."""

import os
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Callable, Iterator

import pytest
from harness.server import REPOSITORY, Server, binary, running

EXAMPLES = REPOSITORY / "examples" / "hosted"
VENV = Path(os.environ.get("OXENV_VENVS", REPOSITORY / "target" / "venvs")) / "hosted"
# Some libraries take their time, the more so when they are imported for the first time.
IMPORT_TIMEOUT_S = 120.0


def serving(folder: str, *flags: str) -> AbstractContextManager[Server]:
    """A server of a folder as it lies there."""
    assert VENV.is_dir(), f"{VENV} is not there; run ./scripts/test hosted"
    address = ["--port", "0", "--host", "127.0.0.1"]
    command = [str(binary()), "serve", str(EXAMPLES / folder), "--python", str(VENV), *address, *flags]
    banner = rf"oxenv: serving {folder} on (http://127\.0\.0\.1:\d+)"
    return running(command, banner, start_timeout_s=IMPORT_TIMEOUT_S)


@pytest.fixture(scope="session")
def example() -> Iterator[Callable[[str], Server]]:
    """`example("chess_env")` starts a server, or gives the one that serves this folder already."""
    with ExitStack() as servers:
        started: dict[str, Server] = {}

        def serve(folder: str) -> Server:
            if folder not in started:
                started[folder] = servers.enter_context(serving(folder))
            return started[folder]

        yield serve
