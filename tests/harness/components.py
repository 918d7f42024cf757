"""Where the third-party components are that `./scripts/test` installs, and how each MCP server is started.

A component that is missing is an error and never a skip. Entry points: `node`, `npm_entry`, `venv_program`
and the functions that give a `Component`.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.server import REPOSITORY

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
NODE_FOLDER = TARGET / "node"
VENVS = TARGET / "venvs"
RESULTS_SERVER = REPOSITORY / "tests" / "tools" / "results_server.py"


@dataclass(frozen=True)
class Component:
    """An MCP server over stdio: its command line and what it needs in its environment."""

    command: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def command_line(self) -> list[str]:
        return [self.command, *self.args]

    def in_manifest(self, name: str, **more: object) -> dict[str, object]:
        """The entry of tools.yaml that starts it."""
        server = {"command": self.command, "args": list(self.args), "transport": "stdio"}
        if self.env:
            server["env"] = self.env
        return {"name": name, "type": "mcp", "mcp_server": server, **more}


def node() -> Path:
    """The Node 22 of the npm package `node`: the newest SDKs and the conformance suite need it."""
    return _there(NODE_FOLDER / "node_modules" / "node" / "bin" / "node")


def npm_entry(package: str, program: str) -> Path:
    """The script behind a package's program."""
    folder = _there(NODE_FOLDER / "node_modules" / package)
    programs = json.loads((folder / "package.json").read_text(encoding="utf-8"))["bin"]
    return _there(folder / (programs if isinstance(programs, str) else programs[program]))


def venv_program(venv: str, program: str) -> Path:
    """A program of one of the virtual environments."""
    return _there(VENVS / venv / "bin" / program)


def everything(*args: str) -> Component:
    return _npm("everything", *(args or ("stdio",)))


def filesystem(*folders: str) -> Component:
    return _npm("filesystem", *folders)


def memory(file: str) -> Component:
    return _npm("memory", MEMORY_FILE_PATH=file)


def sequential_thinking() -> Component:
    return _npm("sequential-thinking")


def github(token: str) -> Component:
    """It reads another variable than the tools RFC's example sets, so that a manifest maps one to the
    other."""
    return _npm("github", GITHUB_PERSONAL_ACCESS_TOKEN=token)


def git(repository: str) -> Component:
    return Component(str(venv_program("mcp-servers", "mcp-server-git")), ("--repository", repository))


def time() -> Component:
    return Component(str(venv_program("mcp-servers", "mcp-server-time")), ("--local-timezone", "UTC"))


def results(*args: str) -> Component:
    """A tool for each kind of result, written with FastMCP."""
    return Component(str(venv_program("mcp-servers", "python")), (str(RESULTS_SERVER), *args))


def sqlite(database: str) -> Component:
    return Component(str(venv_program("mcp-server-sqlite", "mcp-server-sqlite")), ("--db-path", database))


def recorded(component: Component, received: Path) -> Component:
    """The same server, whose input is also written to a file; the process is still the server itself."""
    script = 'file=$1; shift; exec "$@" < <(exec tee -a "$file")'
    return Component(
        "bash", ("-c", script, "recorded", str(received), *component.command_line), component.env
    )


def _npm(name: str, *args: str, **env: str) -> Component:
    entry = npm_entry(f"@modelcontextprotocol/server-{name}", f"mcp-server-{name}")
    return Component(str(node()), (str(entry), *args), env)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not installed; run ./scripts/test once, which installs it")
    return path
