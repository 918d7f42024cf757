"""One session: `EnvClient`, and `SyncEnvClient` for code that waits.

Invariant: one implementation, two ways to call it. In a thread that runs an event loop a method gives a
coroutine; anywhere else, after `sync()` and in a `with` block, it waits and gives the result.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from ._binary import binary
from ._errors import invalid_options
from ._native import Request, Session
from ._options import Start, docker, process, session_options
from ._requests import no_result, run_request, running_loop
from ._values import (
    NativeStep,
    StepResult,
    Tool,
    ToolResult,
    from_json,
    to_plain,
    check_succeeded,
    to_json,
    to_tool_result,
    to_tools,
)


ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")
T = TypeVar("T")
ClientT = TypeVar("ClientT", bound="EnvClient[Any, Any, Any]")


class EnvClient(Generic[ActT, ObsT, StateT]):
    """One session of an environment.

    It connects at its first request, and ends when it is closed or collected. Subclasses say how actions,
    results and states look with `_step_payload`, `_parse_result` and `_parse_state`.

    Args:
        base_url: Where the server is: ``http``, ``https``, ``ws`` or ``wss``, or only host and port.
        connect_timeout_s: How long connecting may take, in seconds.
        message_timeout_s: How long a reply may take, in seconds, where the call names nothing else.
        max_message_size_mb: Largest reply that is read, in MiB.
        websocket_ping_interval_s: Taken for compatibility; pings are answered at all times by a thread of its
            own.
        websocket_ping_timeout_s: As above.
        provider: What `from_docker_image` and `serve` make.
        mode: Taken for compatibility.
        headers: More headers.
        token: A token, sent as a bearer token.
        protocol: ``"auto"`` (``oxenv.1`` if the server offers it, else the stock dialect), ``"stock"``,
            ``"oxenv.1"`` or ``"http"``.
        validate_arguments: Whether arguments of tool calls are checked against the tool's schema before they
            are sent.
        resume_s: Keep the session that many seconds after a lost connection, and come back to it. Needs
            ``oxenv.1``.
        queue_s: How many seconds to wait for a free slot; the server's own patience if ``None``.
        seed: The seed that the session's seeds come from.
        episode_id: The name of the first episode.

    Raises:
        InvalidOptions: An argument is wrong. Failures of the server come with the requests.
    """

    _protocol = "auto"

    def __init__(
        self,
        base_url: str | None = None,
        connect_timeout_s: float = 10.0,
        message_timeout_s: float = 60.0,
        max_message_size_mb: float = 100.0,
        websocket_ping_interval_s: float | None = 20.0,
        websocket_ping_timeout_s: float | None = 20.0,
        provider: Start | None = None,
        mode: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        protocol: str | None = None,
        validate_arguments: bool = True,
        resume_s: float | None = None,
        queue_s: float | None = None,
        seed: int | None = None,
        episode_id: str | None = None,
    ) -> None:
        if provider is not None and not isinstance(provider, Start):
            kind = type(provider).__name__
            raise invalid_options(
                f"provider is a {kind}; use from_docker_image, serve or from_process instead"
            )
        options = session_options(
            connect_timeout_s=connect_timeout_s,
            message_timeout_s=message_timeout_s,
            max_message_size_mb=max_message_size_mb,
            headers=headers,
            token=token,
            protocol=protocol or self._protocol,
            validate_arguments=validate_arguments,
            resume_s=resume_s,
            queue_s=queue_s,
            seed=seed,
            episode_id=episode_id,
        )
        self._native: Any = Session(base_url, options, None if provider is None else provider.text)
        self._blocking = False

    @classmethod
    def _of(cls: type[ClientT], native: Any, blocking: bool) -> ClientT:
        """A client of a session that exists."""
        client = cls.__new__(cls)
        client._native = native
        client._blocking = blocking
        return client

    # What subclasses say about their environment.

    def _step_payload(self, action: ActT) -> Any:
        """The action as what JSON has: an object."""
        return action if isinstance(action, dict) else to_plain(action)

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[ObsT]:
        """The result of a reset or a step, from ``observation``, ``reward``, ``done`` and, if given,
        ``metadata``."""
        return StepResult(payload["observation"], payload["reward"], payload["done"], payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> StateT:
        """The state, from its object."""
        return payload  # type: ignore[return-value]

    # Requests.

    def connect(self) -> Any:
        """Connects and opens a session, if that is not done. Also after a close."""
        return self._run(self._native.connect(), lambda _: self)

    def reset(self, *, timeout_s: float | None = None, **options: Any) -> Any:
        """Begins an episode. After a lost connection it begins in a new session.

        Args:
            timeout_s: How long the reply may take, in seconds.
            **options: ``seed``, ``episode_id`` and what the environment takes.

        Returns:
            StepResult: The first observation.
        """
        return self._run(self._native.reset(to_json(options), timeout_s), self._result)

    def step(
        self,
        action: ActT,
        *,
        timeout_s: float | None = None,
        key: str | None = None,
        expected_step: int | None = None,
    ) -> Any:
        """Takes an action.

        Args:
            action: A dictionary, a dataclass, a pydantic model, or what the subclass takes.
            timeout_s: How long the reply may take, in seconds. The server is told too where the protocol can.
            key: A name under which a repeat is the same step. Needs ``oxenv.1``, or one of our servers over
                HTTP.
            expected_step: The number that the step is to have within its episode. As `key`.

        Returns:
            StepResult: The observation, the reward, and whether the episode is done.

        Raises:
            OxenvError: Why there is none. A failure has no reward.
        """
        text = to_json(self._step_payload(action))
        return self._run(self._native.step(text, timeout_s, key, expected_step), self._result)

    def state(self) -> Any:
        """The state of the episode, as the environment tells it."""
        return self._run(self._native.state(), lambda text: self._parse_state(from_json(text)))

    def list_tools(self) -> Any:
        """The environment's tools, asked for anew: a list of `Tool`."""
        return self._run(self._native.list_tools(), to_tools)

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
        """Calls a tool, as a step of the session.

        Args:
            name: The tool's name.
            arguments: Its arguments.
            raise_on_error: Whether a tool that says that it failed raises `ToolFailed`.
            timeout_s: How long the result may take, in seconds.
            key: As that of `step`.
            **more: More arguments of the tool, by name.

        Returns:
            ToolResult: What it gave.

        Raises:
            InvalidArguments: The arguments do not fit the tool's schema; nothing was sent.
            ToolNotFound: There is no such tool.
            ToolFailed: It says that it failed, unless `raise_on_error` is ``False``.
        """
        request = self._native.call_tool(name, to_json({**(arguments or {}), **more}), timeout_s, key)

        def convert(native: Any) -> ToolResult:
            result = to_tool_result(native)
            return check_succeeded(name, result) if raise_on_error else result

        return self._run(request, convert)

    def fork(self, n: int = 1) -> Any:
        """New sessions that start from the present state: a list of clients. Needs ``oxenv.1``.

        Raises:
            Unsupported: The server or the environment cannot.
        """
        blocking = self._blocking
        return self._run(
            self._native.fork(n),
            lambda made: [type(self)._of(native, blocking) for native in made],
        )

    def snapshot(self) -> Any:
        """The session as one opaque text, which `Connection.restore` makes a session of again.

        Raises:
            Unsupported: The server or the environment cannot.
        """
        return self._run(self._native.snapshot(), str)

    def close(self) -> Any:
        """Ends the session, and the instance that was started for it. To close twice is no error."""
        return self._run(self._native.close(), no_result)

    def disconnect(self) -> Any:
        """As `close`."""
        return self.close()

    def logs(self) -> Any:
        """What the instance that was started for this session wrote last; empty if there is none."""
        return self._run(self._native.logs(), str)

    # Facts, ``None`` while they are not known.

    @property
    def protocol(self) -> str | None:
        """The protocol that is spoken: ``"oxenv.1"``, ``"stock"`` or ``"http"``."""
        return self._native.facts()[0]  # type: ignore[no-any-return]

    @property
    def session_id(self) -> str | None:
        """The session's id, where the protocol tells it."""
        return self._fact(0)

    @property
    def mcp_url(self) -> str | None:
        """Where an agent finds the session's tools, where the protocol tells it."""
        return self._fact(1)

    @property
    def agent_token(self) -> str | None:
        """What that agent has to show there, if anything."""
        return self._fact(2)

    @property
    def instance_url(self) -> str | None:
        """Where the instance is that was started for this session."""
        return self._fact(3)

    @property
    def instance_name(self) -> str | None:
        """The name of that instance, as ``oxenv ps`` shows it."""
        return self._fact(4)

    def _fact(self, index: int) -> str | None:
        return self._native.facts()[1][index]  # type: ignore[no-any-return]

    # Ways to call it.

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """The same client for code that waits, also in a thread that runs an event loop."""
        return SyncEnvClient(self)

    def __enter__(self: ClientT) -> ClientT:
        self._blocking = True
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocking = True
        self.close()

    async def __aenter__(self: ClientT) -> ClientT:
        self._blocking = False
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocking = False
        await self.close()

    # Ways to start the server that it talks to.

    @classmethod
    def from_docker_image(
        cls: type[ClientT],
        image: str,
        provider: None = None,
        *,
        workspace_dir: str | os.PathLike[str] | None = None,
        env_vars: Mapping[str, str | None] | None = None,
        command: Sequence[str] = (),
        name: str | None = None,
        port: int | None = None,
        memory: int | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        mounts: Sequence[tuple[str | os.PathLike[str], str, bool]] = (),
        pull: str = "missing",
        privileged_root: bool = False,
        start_timeout_s: float = 30.0,
        stop_grace_s: float = 5.0,
        docker_host: str | None = None,
        **options: Any,
    ) -> Any:
        """Starts a container of an image and opens a session in it. The container ends with the client.

        Waits and gives the client; in a thread that runs an event loop it gives something to await, or to
        call `sync()` on, and starts then.

        Args:
            image: The image's name, such as ``"coding-env:latest"``.
            provider: Taken for compatibility; must be ``None``.
            workspace_dir: A folder that the container sees at ``/workspace``. It is never cleared, and its
                ownership never changed.
            env_vars: Variables of its environment. One that is ``None`` is left out.
            command: What to run instead of the image's own command.
            name: A name for ``oxenv ps``.
            port: A port of the loopback address; a free one if ``None``.
            memory: Bytes of memory that it may use.
            cpus: Processors that it may use; 1.5 is one and a half.
            pids: Processes and threads that it may have.
            mounts: More folders: from where, to where, whether read-only.
            pull: Whether the image may be fetched: ``"missing"``, ``"always"`` or ``"never"``.
            privileged_root: Let it write outside its workspace and ``/tmp``, and keep its capabilities.
            start_timeout_s: How long it may take until it is healthy, in seconds.
            stop_grace_s: How long it has to end by itself, in seconds.
            docker_host: The daemon's address; ``DOCKER_HOST``, or the machine's own daemon, if ``None``.
            **options: Options of the client.

        Raises:
            ProviderFailure: Why there is no container; nothing is left running.
        """
        if provider is not None:
            raise invalid_options("from_docker_image starts containers itself; leave provider out")
        start = docker(
            image=image,
            workspace=workspace_dir,
            env=env_vars,
            command=command,
            name=name,
            port=port,
            memory=memory,
            cpus=cpus,
            pids=pids,
            mounts=mounts,
            pull=pull,
            privileged_root=privileged_root,
            start_timeout_s=start_timeout_s,
            stop_grace_s=stop_grace_s,
            docker_host=docker_host or os.environ.get("DOCKER_HOST"),
        )
        return _started(cls(provider=start, **options))

    @classmethod
    def from_process(
        cls: type[ClientT],
        command: Sequence[str],
        *,
        workspace_dir: str | os.PathLike[str] | None = None,
        env_vars: Mapping[str, str | None] | None = None,
        name: str | None = None,
        start_timeout_s: float = 30.0,
        stop_grace_s: float = 5.0,
        **options: Any,
    ) -> Any:
        """Starts a command that serves an environment, and opens a session there. The process ends with the
        client.

        Args:
            command: The command with its arguments; ``{port}`` in each is replaced by a free port.
            workspace_dir: The folder that it runs in.
            env_vars: Variables of its environment, beside PATH, HOME, TMPDIR and LANG, which it has as they
                are here. One that is ``None`` is left out.
            name: A name for ``oxenv ps``.
            start_timeout_s: How long it may take until it is healthy, in seconds.
            stop_grace_s: How long it has to end by itself, in seconds.
            **options: Options of the client.

        Raises:
            ProviderFailure: Why there is no process; nothing is left running.
        """
        inherited = {name: os.environ.get(name) for name in ("PATH", "HOME", "TMPDIR", "LANG")}
        start = process(
            supervisor=binary(),
            workspace=workspace_dir,
            env={**inherited, **(env_vars or {})},
            command=command,
            name=name,
            start_timeout_s=start_timeout_s,
            stop_grace_s=stop_grace_s,
        )
        return _started(cls(provider=start, **options))

    @classmethod
    def serve(cls: type[ClientT], environment: str, *flags: str, **options: Any) -> Any:
        """Starts ``oxenv serve`` with the binary of this package, and opens a session there.

        Args:
            environment: What to serve, such as ``"echo"``.
            *flags: More flags of ``oxenv serve``.
            **options: As those of `from_process`.
        """
        serving = [str(binary()), "serve", environment, "--host", "127.0.0.1", "--port", "{port}", *flags]
        return cls.from_process(serving, **options)

    def _run(self, request: Request, convert: Callable[[Any], T]) -> T | Coroutine[Any, Any, T]:
        return run_request(request, convert, self._blocking)

    def _result(self, native: NativeStep) -> StepResult[ObsT]:
        observation, reward, done, metadata, seq, repeated = native
        payload = {"observation": from_json(observation), "reward": reward, "done": done}
        if metadata is not None:
            payload["metadata"] = from_json(metadata)
        result = self._parse_result(payload)
        result.seq = seq
        result.repeated = repeated
        return result


class SyncEnvClient(Generic[ActT, ObsT, StateT]):
    """A client whose methods wait. What it does not have itself it has from the client."""

    def __init__(self, client: EnvClient[ActT, ObsT, StateT]) -> None:
        client._blocking = True
        self._client = client

    @property
    def async_client(self) -> EnvClient[ActT, ObsT, StateT]:
        """The client itself."""
        return self._client

    def connect(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """Connects and opens a session, if that is not done."""
        self._client.connect()
        return self

    def reset(self, *, timeout_s: float | None = None, **options: Any) -> StepResult[ObsT]:
        """Begins an episode; see `EnvClient.reset`."""
        return self._client.reset(timeout_s=timeout_s, **options)  # type: ignore[no-any-return]

    def step(self, action: ActT, **options: Any) -> StepResult[ObsT]:
        """Takes an action; see `EnvClient.step`."""
        return self._client.step(action, **options)  # type: ignore[no-any-return]

    def state(self) -> StateT:
        """The state of the episode."""
        return self._client.state()  # type: ignore[no-any-return]

    def list_tools(self) -> list[Tool]:
        """The environment's tools, asked for anew."""
        return self._client.list_tools()  # type: ignore[no-any-return]

    def fork(self, n: int = 1) -> list[SyncEnvClient[ActT, ObsT, StateT]]:
        """New sessions that start from the present state; see `EnvClient.fork`."""
        return [SyncEnvClient(client) for client in self._client.fork(n)]

    def close(self) -> None:
        """Ends the session, and the instance that was started for it."""
        self._client.close()

    def disconnect(self) -> None:
        """As `close`."""
        self._client.close()

    def __enter__(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value

        # A subclass wrote this one for event loops: it gets one of its own.
        async def whole(*args: Any, **kwargs: Any) -> Any:
            self._client._blocking = False
            try:
                return await value(*args, **kwargs)
            finally:
                self._client._blocking = True

        return lambda *args, **kwargs: asyncio.run(whole(*args, **kwargs))


class Starting(Generic[ClientT]):
    """A server that is about to be started: await it for the client, or call `sync()`."""

    def __init__(self, client: ClientT) -> None:
        self._client = client

    def __await__(self) -> Generator[Any, None, ClientT]:
        client: Generator[Any, None, ClientT] = self._client.connect().__await__()
        return client

    def sync(self) -> SyncEnvClient[Any, Any, Any]:
        """Starts it and waits."""
        return self._client.sync().connect()


def _started(client: ClientT) -> ClientT | Starting[ClientT]:
    if running_loop() is not None:
        return Starting(client)
    client.connect()
    return client
