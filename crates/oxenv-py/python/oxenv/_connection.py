"""Many sessions over one socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import _native
from ._client import EnvClient
from ._errors import OxenvError
from ._generic import GenericEnvClient
from ._options import session_options
from ._requests import run_request
from ._values import to_json


class Connection:
    """One socket that many sessions share; the server must speak ``oxenv.1``.

    Methods wait, or give a coroutine in a thread that runs an event loop. The socket closes with its last
    session.

    Args:
        base_url: Where the server is.
        **options: As those of `EnvClient`, without `protocol`.
    """

    def __init__(self, base_url: str, **options: Any) -> None:
        self._native = _native.Connection(base_url, session_options(protocol="oxenv.1", **options))

    def open(self, *, seed: int | None = None, episode_id: str | None = None) -> Any:
        """Opens a session: a `GenericEnvClient`."""
        return run_request(self._native.open(seed, episode_id), _client, False)

    def attach(self, session_id: str) -> Any:
        """Attaches to a session that exists: a `GenericEnvClient`. It is given back, not ended, with the
        client.

        Raises:
            SessionNotFound: There is none of that id.
        """
        return run_request(self._native.attach(session_id), _client, False)

    def restore(self, snapshot: str) -> Any:
        """Makes a session of what `EnvClient.snapshot` gave: a `GenericEnvClient`."""
        return run_request(self._native.restore(snapshot), _client, False)

    def step_batch(self, steps: Iterable[tuple[EnvClient[Any, Any, Any], Any]]) -> Any:
        """Takes many steps in one frame: pairs of a session of this connection and its action.

        Returns:
            A list in the order of the steps: a `StepResult` each, or the `OxenvError` of one that failed.
        """
        pairs = list(steps)
        clients = [client for client, _ in pairs]
        native = [(client._native, to_json(client._step_payload(action))) for client, action in pairs]

        def convert(results: list[Any]) -> list[Any]:
            return [
                result if isinstance(result, OxenvError) else client._result(result)
                for client, result in zip(clients, results)
            ]

        return run_request(self._native.step_batch(native), convert, False)


def _client(made: list[_native.Session]) -> GenericEnvClient:
    return GenericEnvClient._of(made[0], blocking=False)
