"""Base classes of environments that are written in Python.

They are used in process, and served by ``oxenv serve module:Class``. Its worker knows them by the names
`get_available_tools`, `tool_step` and `takes_tool_calls`.
"""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from ._errors import OxenvError, ToolNotFound
from ._executor import PythonExecutor
from ._manager import MCPClientManager
from ._mcp import MCPClient, ToolSource
from ._values import Observation, Record, State, Tool, ToolResult

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")
EnvironmentT = TypeVar("EnvironmentT", bound="Environment[Any, Any, Any]")

#: The types of errors of tool calls that OpenEnv's clients know, by our codes.
_ERROR_TYPES = {
    "TOOL_NOT_FOUND": "tool_not_found",
    "INVALID_ARGUMENTS": "invalid_args",
    "DEADLINE_EXCEEDED": "timeout",
    "TIMED_OUT": "timeout",
    "CONNECTION_LOST": "transport_error",
    "UPSTREAM_LOST": "transport_error",
    "UPSTREAM_UNAVAILABLE": "transport_error",
}


@dataclass(kw_only=True)
class Action:
    """Base of actions: make subclasses dataclasses.

    Attributes:
        metadata: What a caller says beside the action.
    """

    metadata: dict[str, Any] = field(default_factory=dict)


class Environment(Generic[ActT, ObsT, StateT]):
    """Base of environments. Subclasses define `reset` and `step`.

    Actions, observations and states are dataclasses, pydantic models, or `Action`, `Observation` and `State`.
    An environment that defines no `step` takes tool calls only.

    Args:
        mcp_client: The tools that agents may call: a `LocalMCPServer`, an `MCPClient` or an
            `MCPClientManager`.
    """

    # Subclasses need not call __init__.
    _mcp_client: MCPClient | None = None
    _mcp_manager: MCPClientManager | None = None
    _state: Any = None

    def __init__(self, mcp_client: ToolSource | None = None) -> None:
        if mcp_client is not None:
            self._mcp_client = mcp_client if isinstance(mcp_client, MCPClient) else MCPClient(mcp_client)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> ObsT:
        """Begins an episode, with its tools. A state that is no `State` is left as it is.

        Args:
            seed: What randomness is to follow from.
            episode_id: The episode's name.
            **options: What a caller gives beside.

        Returns:
            The first observation; here one with the status ``"ready"``.
        """
        if self._state is None or isinstance(self._state, State):
            self._state = State(episode_id=episode_id or str(uuid.uuid4()))
        if self._mcp_manager is not None:
            self._mcp_manager.reset(seed)
        # One that was never used is not made for this.
        executor = vars(self).get("_executor")
        if isinstance(executor, PythonExecutor):
            executor.clear()
        return Observation(metadata={"status": "ready"})  # type: ignore[return-value]

    def step(self, action: ActT, timeout_s: float | None = None, **options: Any) -> ObsT:
        """Takes an action; here a tool call or a request for the tools: `ListToolsAction`, `CallToolAction`,
        or a `UnifiedAction` of the type ``"tool"``.

        Raises:
            NotImplementedError: It is another action.
        """
        return self._tool_action(action)  # type: ignore[return-value]

    @property
    def state(self) -> StateT:
        """The state of the episode."""
        if self._state is None:
            self._state = State()
        return self._state  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends what the environment has started."""
        for source in (self._mcp_client, self._mcp_manager):
            if source is not None:
                source.close()

    # Tools.

    @property
    def takes_tool_calls(self) -> bool:
        """Whether tool calls are all its actions, because it defines no `step`."""
        return type(self).step is Environment.step

    def get_available_tools(self) -> list[Tool]:
        """The tools that agents may call. A name belongs to the first that has it: `mcp_client` before the
        manifest."""
        tools: dict[str, Tool] = {}
        for source in self._sources():
            for tool in source.list_tools():
                tools.setdefault(tool.name, tool)
        return list(tools.values())

    def call_tool(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Calls a tool. One that says that it failed is a result with ``is_error``.

        Raises:
            ToolNotFound: There is none of that name.
            InvalidArguments: The arguments do not fit its schema.
            OxenvError: The call got no result.
        """
        sources = self._sources()
        for source in sources:
            if len(sources) == 1 or any(tool.name == tool_name for tool in source.list_tools()):
                return source.call_tool(tool_name, arguments)
        known = ", ".join(tool.name for tool in self.get_available_tools()) or "none"
        message = f"unknown tool '{tool_name}'; there are: {known}"
        raise ToolNotFound(message, kind="action", delivered="no")

    def tool_step(self, tool_name: str, arguments: Mapping[str, Any] | None = None) -> Observation:
        """What a tool call of an agent gives; override it to reward calls, or to end episodes.

        Returns:
            An observation with ``tool_name``, and with ``result``, a `ToolResult`, or, if the call got none,
            ``error`` with ``error_type`` and ``message``.
        """
        observation = Observation(tool_name=tool_name, result=None, error=None)
        try:
            observation.result = self.call_tool(tool_name, arguments)
        except OxenvError as error:
            error_type = _ERROR_TYPES.get(error.code, "execution_error")
            observation.error = Record(error_type=error_type, message=str(error))
        if isinstance(self._state, State):
            self._state.step_count += 1
        return observation

    def get_callables(self) -> dict[str, Callable[..., Any]]:
        """The functions behind the tools of a `LocalMCPServer`; they are also what code in `_executor` may
        call."""
        return {} if self._mcp_client is None else self._mcp_client.get_callables()

    @functools.cached_property
    def _executor(self) -> PythonExecutor:
        """What runs code of agents; variables live until the next reset."""
        return PythonExecutor(self.get_callables())

    def _sources(self) -> list[MCPClient | MCPClientManager]:
        return [source for source in (self._mcp_client, self._mcp_manager) if source is not None]

    def _load_tools_manifest(self, manifest: str | os.PathLike[str]) -> Any:
        """What `MCPClientManager` takes for a manifest.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path = Path(manifest)
        if not path.is_file():
            raise FileNotFoundError(f"there is no manifest {path}; give the path of a tools.yaml")
        return path

    async def _handle_mcp_action(self, action: Any) -> Observation:
        return self._tool_action(action)

    def _tool_action(self, action: Any) -> Observation:
        """What an action about tools gives, in the form in which it was asked for."""
        if type(action).__name__ == "ListToolsAction":
            tools = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
                for tool in self.get_available_tools()
            ]
            return Observation(tools=tools, metadata={"tools": tools})
        name = getattr(action, "tool_name", None)
        if not isinstance(name, str):
            kind, own = type(action).__name__, type(self).__name__
            raise NotImplementedError(f"{own} takes tool calls only: it defines no step that takes a {kind}")
        given = [getattr(action, key, None) for key in ("arguments", "parameters", "tool_args")]
        observation = self.tool_step(name, next((each for each in given if each is not None), {}))
        return _in_its_spelling(observation, journal=given[0] is None and not hasattr(action, "tool_args"))

    def __enter__(self: EnvironmentT) -> EnvironmentT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ToolEnabledEnvironment(Environment[ActT, ObsT, StateT]):
    """An environment with the tools of a manifest.

    Args:
        tools_manifest: The path of a ``tools.yaml``; ``None`` for no tools.
        mcp_client: More tools, as those of `Environment`.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(
        self, tools_manifest: str | os.PathLike[str] | None = None, mcp_client: ToolSource | None = None
    ) -> None:
        super().__init__(mcp_client)
        if tools_manifest:
            self._mcp_manager = MCPClientManager(self._load_tools_manifest(tools_manifest))


def _in_its_spelling(observation: Observation, journal: bool) -> Observation:
    """The outcome of a call where its caller looks for it: the journal's does in the metadata, that of a
    `UnifiedAction` in ``stdout``. A failure of the tool is an error, as over the wire."""
    result: ToolResult | None = observation.result
    observation.stdout = "" if result is None else result.text
    if result is not None and result.is_error:
        observation.error = Record(error_type="execution_error", message=result.text)
        observation.result = result = None
    if not journal:
        return observation
    if result is None:
        observation.metadata["error"] = observation.error.message
    else:
        observation.metadata["result"] = result.text if result.structured_content is None else result.data
    return observation
