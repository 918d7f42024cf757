"""Environments on Fleet, and the tools of many MCP endpoints as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from . import _native
from ._errors import Unsupported, invalid_options
from ._generic import HTTPEnvClient
from ._requests import await_request, no_result
from ._values import Tool, ToolListing, ToolResult, check_succeeded, to_json, to_listing, to_tool_result

T = TypeVar("T")

NO_KEYS = "Fleet has no keys for steps; leave key and expected_step out"


class FleetMCPTools:
    """The tools of many MCP endpoints as one, for agents. Endpoints speak Streamable HTTP.

    Nothing is connected before the first use. A tool that more than one endpoint offers belongs to the
    earlier one; `list` says which those are. A call goes to the endpoint whose tool was listed, and is
    repeated only if it surely was not delivered.

    Args:
        mcp_urls: The endpoints, in the order of their precedence.
        api_key: Sent to all of them as a bearer token.
        headers: More headers for all of them.
        strict: Whether a listing fails if an endpoint cannot be reached; else its tools are missing, and
            `list` says why.
        connect_timeout_s: How long connecting may take, in seconds.
        timeout_s: How long a call may take, in seconds.
        optional: Those of the endpoints that may answer 404, even if `strict`.

    Raises:
        InvalidOptions: A URL or a header is wrong, or there is no URL.
    """

    def __init__(
        self,
        mcp_urls: Sequence[str],
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        strict: bool = False,
        connect_timeout_s: float = 10.0,
        timeout_s: float = 60.0,
        optional: Sequence[str] = (),
    ) -> None:
        authorization = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        options = {
            "strict": strict,
            "headers": list({**authorization, **(headers or {})}.items()),
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": timeout_s,
            "optional": list(optional),
        }
        self._native = _native.Multiplexer(list(mcp_urls), to_json(options))

    @classmethod
    def _of(cls, native: _native.Multiplexer) -> FleetMCPTools:
        tools = cls.__new__(cls)
        tools._native = native
        return tools

    async def list_tools(self) -> list[Tool]:
        """The tools of all endpoints, asked for anew.

        Raises:
            EndpointUnavailable: None can be reached, or not all and `strict` was given.
        """
        return (await self.list()).tools

    async def list(self) -> ToolListing:
        """As `list_tools`, with the conflicts, and with how each endpoint is."""
        return await await_request(self._native.list(), to_listing)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        raise_on_error: bool = True,
        timeout_s: float | None = None,
    ) -> ToolResult:
        """Calls a tool at the endpoint that owns it.

        Raises:
            ToolNotFound: No endpoint has it.
            InvalidArguments: The arguments do not fit its schema; nothing was sent.
            EndpointUnavailable: The call was not delivered.
            ConnectionLost: It may have been.
            ToolFailed: The tool says that it failed, unless `raise_on_error` is ``False``.
        """
        call = self._native.call_tool(name, to_json(arguments or {}), timeout_s)
        result = await await_request(call, to_tool_result)
        return check_succeeded(name, result) if raise_on_error else result

    async def changed(self) -> None:
        """Waits until the list of an endpoint may have changed."""
        await await_request(self._native.changed(), no_result)

    async def close(self) -> None:
        """Ends all connections; calls in flight are lost."""
        await await_request(self._native.close(), no_result)

    def sync(self) -> SyncFleetMCPTools:
        """The same tools for code that waits."""
        return SyncFleetMCPTools(self)

    async def __aenter__(self) -> FleetMCPTools:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class SyncFleetMCPTools:
    """As `FleetMCPTools`, with methods that wait."""

    def __init__(self, tools: FleetMCPTools) -> None:
        self._native = tools._native

    def list_tools(self) -> list[Tool]:
        """The tools of all endpoints, asked for anew."""
        return self.list().tools

    def list(self) -> ToolListing:
        """As `list_tools`, with the conflicts, and with how each endpoint is."""
        return _wait(self._native.list(), to_listing)

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        raise_on_error: bool = True,
        timeout_s: float | None = None,
    ) -> ToolResult:
        """Calls a tool at the endpoint that owns it; see `FleetMCPTools.call_tool`."""
        result = _wait(self._native.call_tool(name, to_json(arguments or {}), timeout_s), to_tool_result)
        return check_succeeded(name, result) if raise_on_error else result

    def close(self) -> None:
        """Ends all connections."""
        _wait(self._native.close(), no_result)


class FleetEnvClient(HTTPEnvClient):
    """The orchestrator's side of an instance on Fleet: reset, step, state. Made by `from_fleet`.

    The instance is deleted when this is closed or collected, and when the process exits. Its methods wait,
    also in a thread that runs an event loop; those of one that `from_fleet_async` made give coroutines there.
    """

    _tools: FleetMCPTools

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise invalid_options("make it with FleetEnvClient.from_fleet(api_key=…, env_key=…)")

    @classmethod
    def from_fleet(
        cls,
        api_key: str | None = None,
        env_key: str | None = None,
        *,
        base_url: str | None = None,
        region: str | None = None,
        data_key: str | None = None,
        image_type: str | None = None,
        env_variables: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        ttl_seconds: float | None = None,
        heartbeat_s: float | None = None,
        runner_token: str | None = None,
        extra: Mapping[str, Any] | None = None,
        timeout_s: float = 900.0,
        reset_timeout_s: float = 120.0,
        strict: bool = False,
    ) -> tuple[FleetEnvClient, FleetMCPTools]:
        """Makes an instance, waits until it runs, and connects its tools.

        Args:
            api_key: The key; ``FLEET_API_KEY`` if ``None``.
            env_key: The environment, ``key`` or ``key:version``; ``FLEET_ENV_KEY`` if ``None``.
            base_url: The control plane; ``FLEET_BASE_URL``, or Fleet's own, if ``None``.
            region: Where the instance is to run.
            data_key: ``key:version`` of the data that it begins with.
            image_type: The kind of image, such as ``"mcp"``.
            env_variables: Variables of its environment.
            run_id: A name that instances of one run share.
            ttl_seconds: After how many seconds Fleet ends it by itself.
            heartbeat_s: How often Fleet is told that it is still used, in seconds; ``None``: as the instance
                says.
            runner_token: The token of the instance's runner; ``RUNNER_AUTH_TOKEN``, or asked for, if
                ``None``.
            extra: More fields of the request that makes it, such as ``seed``, as Fleet names them.
            timeout_s: How long making it may take, in seconds.
            reset_timeout_s: How long a reset may take, in seconds.
            strict: Whether listing tools fails if an MCP endpoint cannot be reached. One that answers 404 is
                absent, not broken.

        Returns:
            The orchestrator, and the agent's tools.

        Raises:
            FleetFailure: Why there is no instance; none is left.
        """
        request = _request(locals())
        orchestrator, tools = _wait(request, cls._parts)
        orchestrator._blocking = True
        return orchestrator, tools

    @classmethod
    async def from_fleet_async(
        cls, api_key: str | None = None, env_key: str | None = None, **options: Any
    ) -> tuple[FleetEnvClient, FleetMCPTools]:
        """As `from_fleet`, without blocking the event loop; the orchestrator's methods give coroutines
        there."""
        return await await_request(_request({"api_key": api_key, "env_key": env_key, **options}), cls._parts)

    @classmethod
    def _parts(cls, made: tuple[_native.Fleet, _native.Multiplexer]) -> tuple[FleetEnvClient, FleetMCPTools]:
        orchestrator = cls._of(made[0], blocking=False)
        orchestrator._tools = FleetMCPTools._of(made[1])
        return orchestrator, orchestrator._tools

    @property
    def tools(self) -> FleetMCPTools:
        """The agent's tools."""
        return self._tools

    @property
    def instance_id(self) -> str:
        """The instance's id."""
        return str(self._native.facts()[0])

    @property
    def instance_url(self) -> str:
        """The instance's root URL."""
        return str(self._native.facts()[1])

    def step(
        self,
        action: Any,
        *,
        timeout_s: float | None = None,
        key: str | None = None,
        expected_step: int | None = None,
    ) -> Any:
        """Takes an action: `ListToolsAction` and `CallToolAction` go through the MCP endpoints.

        Raises:
            Unsupported: It is another action, while Fleet serves no ``/step``; or `key` or `expected_step` is
                given.
        """
        if key is not None or expected_step is not None:
            raise Unsupported(NO_KEYS, delivered="no")
        text = to_json(self._step_payload(action))
        return self._run(self._native.step(text, timeout_s), self._result)

    def list_tools(self) -> Any:
        """The tools of all endpoints, asked for anew: a list of `Tool`."""
        return self._run(self._tools._native.list(), lambda native: to_listing(native).tools)

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
        """Calls a tool at the endpoint that owns it; see `FleetMCPTools.call_tool`."""
        if key is not None:
            raise Unsupported(NO_KEYS, delivered="no")
        request = self._tools._native.call_tool(name, to_json({**(arguments or {}), **more}), timeout_s)

        def convert(native: Any) -> ToolResult:
            result = to_tool_result(native)
            return check_succeeded(name, result) if raise_on_error else result

        return self._run(request, convert)

    def connect(self) -> Any:
        """Does nothing: the instance runs."""
        return self._run(self._native.ready(), lambda _: self)


def _request(given: dict[str, Any]) -> _native.Request:
    """The request that makes an instance, from the arguments of `from_fleet`."""
    defaults = {
        "base_url": os.environ.get("FLEET_BASE_URL"),
        "runner_token": os.environ.get("RUNNER_AUTH_TOKEN"),
        "timeout_s": 900.0,
        "reset_timeout_s": 120.0,
        "strict": False,
    }
    given = {name: value for name, value in given.items() if value is not None and name != "cls"}
    api_key = given.pop("api_key", None) or os.environ.get("FLEET_API_KEY")
    env_key = given.pop("env_key", None) or os.environ.get("FLEET_ENV_KEY")
    if not api_key or not env_key:
        missing = "api_key, or set FLEET_API_KEY" if not api_key else "env_key, or set FLEET_ENV_KEY"
        raise invalid_options(f"from_fleet: give {missing}")
    for name in ("env_variables", "extra"):
        given[name] = dict(given.get(name, {}))
    return _native.from_fleet(api_key, env_key, to_json({**defaults, **given}))


def _wait(request: _native.Request, convert: Callable[[Any], T]) -> T:
    return convert(request.wait())
