"""Tools that an environment is written with: Python functions, and MCP servers elsewhere.

Methods wait, also in a thread that runs an event loop: they are for the inside of a step.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar, overload

from ._errors import ToolNotFound
from ._fleet import FleetMCPTools
from ._signature import check_arguments, input_schema
from ._values import Tool, ToolResult, from_json, to_json

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
T = TypeVar("T")


class ToolSource(Protocol):
    """What has tools: a `LocalMCPServer`, an `MCPClientManager`, or an object of your own."""

    def list_tools(self) -> list[Tool]:
        """The tools."""
        ...

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Calls one."""
        ...


class LocalMCPServer:
    """Python functions as tools, in this process.

    The schema of a tool's arguments comes from the annotations of its function, its description from the
    docstring. A description of an argument is given with ``Annotated[str, "the text"]``. A function may be a
    coroutine.

    Args:
        name: The server's name.
    """

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self._tools: dict[str, Tool] = {}
        self._callables: dict[str, Callable[..., Any]] = {}

    @overload
    def tool(
        self, function: FunctionT, *, name: str | None = None, description: str | None = None
    ) -> FunctionT: ...

    @overload
    def tool(
        self, function: None = None, *, name: str | None = None, description: str | None = None
    ) -> Callable[[FunctionT], FunctionT]: ...

    def tool(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
    ) -> Any:
        """Adds a function as a tool; used as ``@server.tool`` or ``@server.tool(name="…")``.

        Raises:
            ValueError: There is a tool of that name.
            TypeError: An argument of the function cannot be given by name.
        """
        if function is None:
            return lambda given: self._add(given, name, description)
        return self._add(function, name, description)

    def _add(self, function: FunctionT, name: str | None, description: str | None) -> FunctionT:
        name = name or function.__name__
        if name in self._tools:
            raise ValueError(f"server '{self.name}' has a tool '{name}' already; give this one another name")
        text = description or inspect.getdoc(function) or ""
        self._tools[name] = Tool(name=name, description=text, input_schema=input_schema(function))
        self._callables[name] = function
        return function

    def list_tools(self) -> list[Tool]:
        """The tools, in the order in which they were added."""
        return list(self._tools.values())

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Calls a tool. What its function raises is a result with ``is_error``, as in MCP.

        Raises:
            ToolNotFound: There is none of that name.
            InvalidArguments: The arguments do not fit its schema.
        """
        if tool_name not in self._tools:
            raise _not_found(tool_name, list(self._tools))
        given = dict(arguments or {})
        check_arguments(tool_name, self._tools[tool_name].input_schema, given)
        try:
            value = self._callables[tool_name](**given)
            value = _wait_for(value) if inspect.iscoroutine(value) else value
            return _result(value)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return ToolResult(text=text, content=[{"type": "text", "text": text}], is_error=True)

    def get_callables(self) -> dict[str, Callable[..., Any]]:
        """The functions themselves by the names of their tools, for code that calls them directly."""
        return dict(self._callables)


class MCPClient:
    """The tools of one source. Their list is asked for once and kept.

    Args:
        server: A `LocalMCPServer`, an `MCPClientManager`, or the URL of an MCP endpoint (Streamable HTTP).
    """

    def __init__(self, server: ToolSource | str) -> None:
        self._source: ToolSource = _Endpoint(server) if isinstance(server, str) else server
        self._listed: list[Tool] | None = None

    def list_tools(self, refresh: bool = False) -> list[Tool]:
        """The tools; asked for anew if `refresh`."""
        if self._listed is None or refresh:
            self._listed = self._source.list_tools()
        return list(self._listed)

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Calls a tool. One that says that it failed is a result with ``is_error``.

        Raises:
            ToolNotFound: There is none of that name.
            InvalidArguments: The arguments do not fit its schema.
            OxenvError: The call got no result.
        """
        return self._source.call_tool(tool_name, arguments)

    def get_callables(self) -> dict[str, Callable[..., Any]]:
        """The functions of a `LocalMCPServer`; empty for others."""
        return self._source.get_callables() if isinstance(self._source, LocalMCPServer) else {}

    def close(self) -> None:
        """Ends the connection, if there is one."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class _Endpoint:
    """An MCP endpoint somewhere else."""

    def __init__(self, url: str) -> None:
        self._tools = FleetMCPTools([url]).sync()

    def list_tools(self) -> list[Tool]:
        return self._tools.list_tools()

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        return self._tools.call_tool(tool_name, arguments, raise_on_error=False)

    def close(self) -> None:
        self._tools.close()


def compose_servers(*servers: LocalMCPServer, name: str = "composed") -> LocalMCPServer:
    """One server with the tools of many. If several have a tool of one name, the later ones are offered as
    ``server__tool``.

    Raises:
        ValueError: Two servers of one name have a tool of one name.
    """
    composed = LocalMCPServer(name)
    for server in servers:
        functions = server.get_callables()
        for tool in server.list_tools():
            taken = tool.name in composed._tools
            new = f"{server.name}__{tool.name}" if taken else tool.name
            composed.tool(name=new, description=tool.description)(functions[tool.name])
    return composed


def _not_found(name: str, known: list[str]) -> ToolNotFound:
    return ToolNotFound(
        f"unknown tool '{name}'; there are: {', '.join(known) or 'none'}", kind="action", delivered="no"
    )


def _result(value: Any) -> ToolResult:
    """A function's value as MCP has it: as text, and as it is."""
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult()
    text = value if isinstance(value, str) else to_json(value)
    data = value if isinstance(value, str) else from_json(text)
    content = [{"type": "text", "text": text}]
    if isinstance(data, dict):
        return ToolResult(data=data, text=text, content=content, structured_content=data)
    # As FastMCP wraps and marks a value that is no object.
    meta = {"fastmcp": {"wrap_result": True}}
    return ToolResult(
        data=data, text=text, content=content, structured_content={"result": data}, meta=meta
    )


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also in a thread that runs an event loop: then another thread runs it."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(work)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="oxenv-tool")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
