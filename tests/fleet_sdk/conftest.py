"""A simulated Fleet per test, and both of the SDK's clients behind one way to call them."""

import asyncio
import inspect
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

import fleet._async.client
import fleet._async.exceptions
import fleet.client
import fleet.exceptions
import httpx_retries
import pytest
from fleet import AsyncFleet, Fleet
from fleet_sdk.simulated import Simulated, simulated


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Simulated]]:
    """`simulate("--gate")` starts one and points the SDK at it, by environment as a user would."""
    monkeypatch.delenv("RUNNER_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    # How often it tries again is the SDK's; how long it waits between is not what is tested.
    monkeypatch.setattr(httpx_retries.Retry, "backoff_strategy", lambda _: 0.0)
    for module in (fleet.client, fleet._async.client):
        monkeypatch.setattr(module, "DUPLICATE_RECOVERY_POLL_INTERVAL_S", 0.01)
    with ExitStack() as stack:

        def start(*flags: str) -> Simulated:
            started = stack.enter_context(simulated(tmp_path, *flags))
            monkeypatch.setenv("FLEET_BASE_URL", started.url)
            monkeypatch.setenv("FLEET_API_KEY", started.key)
            return started

        yield start


class Sdk:
    """One of the SDK's clients; `do` gives the value of what its methods return, awaited if need be."""

    def __init__(self, client: type, errors: ModuleType):
        self._loop = asyncio.new_event_loop()
        self._client = client
        self.errors = errors

    def client(self) -> Any:
        return self._client()

    def do(self, value: Any) -> Any:
        return self._loop.run_until_complete(value) if inspect.isawaitable(value) else value

    def close(self) -> None:
        self._loop.close()


# Each client has exceptions of its own, with the same names.
CLIENTS = [(Fleet, fleet.exceptions), (AsyncFleet, fleet._async.exceptions)]


@pytest.fixture(params=CLIENTS, ids=["sync", "async"])
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    """Both clients, one after the other."""
    sdk = Sdk(*request.param)
    yield sdk
    sdk.close()
