"""A stock server, for clients of ours: `stock_server.py typed|tools CAPACITY`, in either OpenEnv version.

Prints `stock_server: serving KIND on http://127.0.0.1:PORT` first, as ours does.
"""

import signal
import socket
import sys
import time
from typing import Any
from uuid import uuid4

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State
from reference.echo_openenv import EchoEnvironment


class Message(Action):
    """What to echo; some words make the environment misbehave."""

    message: str


class Echoed(Observation):
    echoed_message: str = ""


class Typed(Environment):
    """Echoes the message of the action in the observation."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(episode_id=str(uuid4()), step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Echoed:
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return Echoed(echoed_message=f"seed {seed}", done=False, reward=0.0)

    def step(self, action: Message, timeout_s: float | None = None, **_: Any) -> Echoed:
        self._state.step_count += 1
        if action.message == "raise":
            raise ValueError("made to raise")
        if action.message == "slow":
            time.sleep(0.2)
        return Echoed(echoed_message=action.message, reward=True, metadata={"length": len(action.message)})

    @property
    def state(self) -> State:
        return self._state


def main() -> None:
    kind, capacity = sys.argv[1], int(sys.argv[2])
    types = (
        (Typed, Message, Echoed)
        if kind == "typed"
        else (EchoEnvironment, CallToolAction, CallToolObservation)
    )
    app = create_app(*types, env_name=kind, max_concurrent_envs=capacity)
    # uvicorn drains, then raises the signal again for the handler that was there before.
    signal.signal(signal.SIGTERM, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"stock_server: serving {kind} on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
