"""The `serve` fixture: servers of the binary under test, ended and checked after each test.

With `--hosted` the environment `echo` is the reference's own echo in Python, behind the same server: the
stock clients' tests then say whether they notice.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Iterator

import pytest
from harness.server import Server, binary, running, serve_command


HOSTED = {"echo": "reference.echo_openenv:EchoEnvironment"}
TYPES = "openenv.core.env_server.mcp_types"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hosted", action="store_true", help="serve echo by the reference's class in Python")


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """`serve("echo", "--max-sessions", "1")` starts one; each must end with 0 after SIGTERM."""
    assert binary().is_file(), f"{binary()} is not built; run `cargo build` or set OXENV_BIN"
    hosted = HOSTED if request.config.getoption("--hosted") else {}
    python = ["--python", sys.executable, "--env", f"PYTHONPATH={Path(__file__).parent}"]
    types = ["--action", f"{TYPES}:CallToolAction", "--observation", f"{TYPES}:CallToolObservation"]
    with ExitStack() as servers:

        def start(environment: str, *flags: str) -> Server:
            served = hosted.get(environment)
            if served:
                command, _ = serve_command(served, *python, *types, *flags)
                return servers.enter_context(running(command, r"oxenv: serving \S+ on (http://\S+)"))
            return servers.enter_context(running(*serve_command(environment, *flags)))

        yield start
