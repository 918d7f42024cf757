"""Clients of one session whose actions, observations and states are dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ._client import EnvClient
from ._values import (
    NativeStep,
    Observation,
    State,
    StepResult,
    Tool,
    from_json,
    check_succeeded,
    to_json,
    to_tool_result,
    to_tools,
)

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")


class GenericEnvClient(EnvClient[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A session of any environment; actions, observations and states are dictionaries."""

    def _result(self, native: NativeStep) -> StepResult[dict[str, Any]]:
        # As EnvClient's, without the steps between: this is the one that loops call.
        observation, reward, done, metadata, seq, repeated = native
        read = None if metadata is None else from_json(metadata)
        return StepResult(from_json(observation), reward, done, read, seq, repeated)


class HTTPEnvClient(GenericEnvClient):
    """A session of any environment over HTTP requests: a session of its own where the server has
    ``POST /sessions``, else the server's only one."""

    _protocol = "http"


class RecordEnvClient(EnvClient[ActT, ObsT, State]):
    """A session whose observations and states are dictionaries with attributes."""

    _observation: type[Observation] = Observation

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[ObsT]:
        reward, done = payload["reward"], payload["done"]
        whole = {"metadata": {}, **payload["observation"], "done": done, "reward": reward}
        observation: Any = self._observation(whole)
        return StepResult(observation, reward, done, payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(payload)


class MCPToolClient(RecordEnvClient[Any, Observation]):
    """A session whose `call_tool` gives the tool's value itself, as OpenEnv's class of that name does."""

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        raise_on_error: bool = True,
        timeout_s: float | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Any:
        """Calls a tool; gives its ``data``. See `EnvClient.call_tool`."""
        request = self._native.call_tool(name, to_json({**(arguments or {}), **more}), timeout_s, key)

        def convert(native: Any) -> Any:
            result = to_tool_result(native)
            return (check_succeeded(name, result) if raise_on_error else result).data

        return self._run(request, convert)

    def get_tool(self, name: str) -> Any:
        """The `Tool` of that name, or ``None``."""

        def convert(native: Any) -> Tool | None:
            return next((tool for tool in to_tools(native) if tool.name == name), None)

        return self._run(self._native.list_tools(), convert)

    def has_tool(self, name: str) -> Any:
        """Whether there is a tool of that name."""
        return self._run(self._native.list_tools(), lambda native: any(tool[0] == name for tool in native))
