"""`MCPClientManager`: the MCP servers of a manifest, for environments that call their tools.

It starts ``oxenv serve --tools`` with the binary of this package and is its client. So a manifest means here
what it means everywhere, and the servers end with this process, also when it is killed.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ._binary import binary
from ._client import SyncEnvClient
from ._errors import Closed
from ._generic import GenericEnvClient
from ._values import Tool, ToolResult, to_json

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?\}")
_log = logging.getLogger("oxenv")

Client = SyncEnvClient[dict[str, Any], dict[str, Any], dict[str, Any]]


class MCPClientManager:
    """The tools of the MCP servers that a manifest (``tools.yaml``) names.

    Nothing is started before the tools are first needed. Methods wait, also in a thread that runs an event
    loop.

    Args:
        config: The manifest: its path, or its content as a dictionary. Relative paths in a dictionary are
            relative to the working directory.
        start_timeout_s: How long the start may take, in seconds.

    Attributes:
        problems: The toolsets that could not be started, with the reason, as of the last reset.
    """

    def __init__(
        self, config: Mapping[str, Any] | str | os.PathLike[str], *, start_timeout_s: float = 60.0
    ) -> None:
        self.problems: list[dict[str, Any]] = []
        self._config = _absolute(config) if isinstance(config, Mapping) else Path(config).absolute()
        self._start_timeout_s = start_timeout_s
        self._client: Client | None = None
        self._closed = False

    def get_available_tools(self) -> list[Tool]:
        """The tools. Those of a toolset that cannot be started are missing: see `problems`, and the log.

        Raises:
            OxenvError: The manifest is wrong, or has nothing that can be started.
        """
        return self._connected().list_tools() if self._has_tools() else []

    def list_tools(self) -> list[Tool]:
        """As `get_available_tools`."""
        return self.get_available_tools()

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Calls a tool. One that says that it failed is a result with ``is_error``.

        Raises:
            ToolNotFound: There is none of that name.
            InvalidArguments: The arguments do not fit its schema; nothing was sent.
            OxenvError: The call got no result; ``delivered`` says whether it may have had an effect.
        """
        result: ToolResult = self._connected().call_tool(tool_name, arguments, raise_on_error=False)
        return result

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode: toolsets are reset as the manifest says, and ``${workspace}`` is emptied. Does
        nothing while nothing is started."""
        if self._client is not None:
            self._begin(self._client, seed)

    def close(self) -> None:
        """Ends all servers. To close twice is no error."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> MCPClientManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_tools(self) -> bool:
        return isinstance(self._config, Path) or bool(self._config.get("tools"))

    def _connected(self) -> Client:
        if self._closed:
            raise Closed("this MCPClientManager is closed; make another one", kind="action", delivered="no")
        if self._client is None:
            self._client = self._start()
        return self._client

    def _start(self) -> Client:
        if isinstance(self._config, Path):
            return self._serve(self._config)
        with tempfile.TemporaryDirectory(prefix="oxenv-manifest-") as folder:
            manifest = Path(folder, "tools.yaml")
            manifest.write_text(to_json(self._config), encoding="utf-8")
            return self._serve(manifest)

    def _serve(self, manifest: Path) -> Client:
        names = set(_VARIABLE.findall(manifest.read_text(encoding="utf-8"))) - {"workspace", "seed"}
        command = [str(binary()), "serve", "--tools", str(manifest), "--host", "127.0.0.1"]
        client: Client = GenericEnvClient.from_process(
            [*command, "--port", "{port}"],
            env_vars={name: os.environ.get(name) for name in names},
            start_timeout_s=self._start_timeout_s,
        ).sync()
        try:
            self._begin(client, None)
        except BaseException:
            client.close()
            raise
        for problem in self.problems:
            _log.warning("toolset '%s' is not available: %s", problem["toolset"], problem["message"])
        return client

    def _begin(self, client: Client, seed: int | None) -> None:
        """Resets the session, and waits until each toolset has started or failed."""
        client.reset(**({} if seed is None else {"seed": seed}))
        listed = client.step({"type": "ListToolsAction"})
        self.problems = (listed.metadata or {}).get("oxenv", {}).get("problems", [])


def _absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with paths that do not depend on where it is written."""

    def whole(name: str, value: Any) -> Any:
        path = isinstance(value, str) and (name in ("cwd", "path") or (name == "command" and "/" in value))
        return os.path.abspath(value) if path and not value.startswith("${") else value

    def entry(given: Any) -> Any:
        server = given.get("mcp_server") if isinstance(given, Mapping) else None
        if not isinstance(server, Mapping):
            return given
        return {**given, "mcp_server": {name: whole(name, value) for name, value in server.items()}}

    tools = config.get("tools")
    return {**config, "tools": [entry(each) for each in tools]} if isinstance(tools, list) else dict(config)
