"""One manifest with every third-party server: Node and Python, stdio and HTTP.

Entry point: `Mixed.make`. What a server keeps (a repository, a database, a memory) is in one folder.
"""

import json
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from harness import components
from harness.components import Component

# It must never be seen anywhere but in the environment of the one server that gets it.
TOKEN = "ghp_a-secret-of-the-tests-0123456789"
TOKEN_FROM = {"GITHUB_TOKEN": TOKEN}
REMEMBERED = {"type": "entity", "name": "oxenv", "entityType": "program", "observations": ["serves tools"]}
# The order of the manifest, which decides whose name gets a prefix.
TOOLSETS = ["files", "remote", "everything", "memory", "thinking", "github", "git", "time", "database"]


@dataclass(frozen=True)
class Call:
    """A tool of a server, the arguments, and the name that the toolbox gives the tool."""

    toolset: str
    tool: str
    arguments: dict[str, Any]
    offered_as: str = ""

    @property
    def name(self) -> str:
        return self.offered_as or self.tool


@dataclass(frozen=True)
class Mixed:
    """The manifest, and what its servers work on."""

    folder: Path
    manifest: Path
    repository: Path
    database: Path
    memory: Path

    @staticmethod
    def make(folder: Path, remote_url: str, only: Sequence[str] = TOOLSETS) -> "Mixed":
        mixed = Mixed(
            folder, folder / "tools.yaml", folder / "repository", folder / "notes.db", folder / "memory.jsonl"
        )
        folder.mkdir(exist_ok=True)
        _make_repository(mixed.repository)
        _make_database(mixed.database)
        mixed.memory.write_text(json.dumps(REMEMBERED) + "\n", encoding="utf-8")
        entries = [entry for entry in mixed._entries(remote_url) if entry["name"] in only]
        write_manifest(mixed.manifest, entries)
        return mixed

    def component(self, toolset: str) -> Component:
        """How a toolset's server is started when it is asked directly."""
        return {
            "remote": components.everything(),
            "everything": components.everything(),
            "memory": components.memory(str(self.memory)),
            "thinking": components.sequential_thinking(),
            "github": components.github("${GITHUB_TOKEN}"),
            "git": components.git(str(self.repository)),
            "time": components.time(),
            "database": components.sqlite(str(self.database)),
        }[toolset]

    def calls(self) -> list["Call"]:
        """Calls whose results are the same whenever and however they are made."""
        repository = {"repo_path": str(self.repository)}
        noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        return [
            Call("remote", "echo", {"message": "over HTTP"}),
            Call("remote", "get-structured-content", {"location": "Chicago"}),
            Call("everything", "echo", {"message": "über stdio"}, offered_as="everything__echo"),
            Call("memory", "read_graph", {}),
            Call("git", "git_log", repository | {"max_count": 1}),
            Call("time", "convert_time", noon),
            Call("database", "read_query", {"query": "SELECT text FROM notes"}),
        ]

    def _entries(self, remote_url: str) -> list[dict[str, Any]]:
        remote = {"name": "remote", "type": "mcp", "mcp_server": {"url": remote_url, "transport": "http"}}
        over_stdio = [name for name in TOOLSETS if name not in ("files", "remote")]
        return [
            components.filesystem("${workspace}").in_manifest("files"),
            remote,
            *(self.component(name).in_manifest(name) for name in over_stdio),
        ]


def write_manifest(file: Path, entries: Sequence[dict[str, Any]]) -> Path:
    """A manifest as JSON, which is YAML too."""
    file.write_text(json.dumps({"version": "1.0", "tools": list(entries)}, indent=2), encoding="utf-8")
    return file


def _make_repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("a repository of the tests\n")
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
    for arguments in (
        ["init", "--quiet", "-b", "main"],
        ["add", "."],
        [*identity, "commit", "--quiet", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def _make_database(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("INSERT INTO notes VALUES ('from the tests')")
    connection.close()
