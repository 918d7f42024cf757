"""What is started once for all tests of tools: the remote server, the mixed manifest, and oxenv serving
it."""

from contextlib import ExitStack
from typing import Callable, Iterator

import pytest
from harness import everything
from harness.mcp_raw import Connection, over_stdio
from harness.plain_http import post
from harness.server import Server, running, tools_command
from tools.mixed import TOKEN_FROM, Mixed


@pytest.fixture(scope="session")
def remote() -> Iterator[str]:
    """The URL of a real server-everything over Streamable HTTP."""
    with everything.over_http() as url:
        yield url


@pytest.fixture(scope="session")
def mixed(remote: str, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return Mixed.make(tmp_path_factory.mktemp("mixed"), remote)


@pytest.fixture(scope="session")
def server(mixed: Mixed) -> Iterator[Server]:
    """oxenv serving the mixed manifest; its default session has been reset once, and tests only add calls."""
    with running(*tools_command(mixed.manifest), env=TOKEN_FROM) as server:
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        yield server


@pytest.fixture(scope="session")
def directly(mixed: Mixed) -> Iterator[Callable[[str], Connection]]:
    """`directly("git")` is a connection to the same program without oxenv between."""
    open_ones: dict[str, Connection] = {}
    with ExitStack() as stack:

        def connection(toolset: str) -> Connection:
            if toolset not in open_ones:
                component = mixed.component(toolset)
                open_ones[toolset] = stack.enter_context(over_stdio(component.command_line, component.env))
            return open_ones[toolset]

        yield connection


@pytest.fixture
def serve_tools() -> Iterator[Callable[..., Server]]:
    """`serve_tools(manifest, "--flag", env={…})` starts one more; each must end with 0 after SIGTERM."""
    with ExitStack() as servers:

        def serve(manifest, *flags, environment=None, env=None, cwd=None) -> Server:
            command = tools_command(manifest, *flags, environment=environment)
            return servers.enter_context(running(*command, env=env, cwd=cwd))

        yield serve
