"""The `serve` fixture: servers of the binary under test, ended and checked after each test."""

from contextlib import ExitStack
from typing import Callable, Iterator

import pytest
from harness.server import Server, binary, running, serve_command


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """`serve("echo", "--max-sessions", "1")` starts one; each must end with 0 after SIGTERM."""
    assert binary().is_file(), f"{binary()} is not built; run `cargo build` or set OXENV_BIN"
    with ExitStack() as servers:
        yield lambda environment, *flags: servers.enter_context(running(*serve_command(environment, *flags)))
