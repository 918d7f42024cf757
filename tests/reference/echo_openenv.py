"""The reference's echo environment, served by the stock `openenv` 0.10.0.

It stands in for the server under test, so that the replay harness can be proven
on the program that the transcripts were recorded from. Prints
`echo_openenv: serving echo on http://127.0.0.1:PORT` first, as ours does.
"""

import signal
import socket
from typing import Annotated, Any, Callable
from uuid import uuid4

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Observation, State
from pydantic import Field

Message = Annotated[str, Field(description="The message to echo back")]


def echo_tools() -> FastMCP:
    """The two tools of echo, described as in the recordings."""
    tools = FastMCP("echo_env")

    @tools.tool
    def echo_message(message: Message) -> str:
        """Echo back the provided message."""
        return message

    @tools.tool
    def echo_with_length(message: Message) -> dict:
        """Echo back the message with its length."""
        return {"message": message, "length": len(message)}

    return tools


class EchoEnvironment(MCPEnvironment):
    """Every action is a tool call; every action counts as a step."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, tools: FastMCP | None = None) -> None:
        super().__init__(tools or echo_tools())
        self._state = State(episode_id=str(uuid4()), step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Observation:
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        ready = {"status": "ready", "message": "Echo environment ready!"}
        return Observation(done=False, reward=0.0, metadata=ready)

    def step(self, action: Any, timeout_s: float | None = None, **options: Any) -> Observation:
        self._state.step_count += 1
        return super().step(action, timeout_s=timeout_s, **options)

    async def step_async(self, action: Any, timeout_s: float | None = None, **options: Any) -> Observation:
        self._state.step_count += 1
        return await super().step_async(action, timeout_s=timeout_s, **options)

    def _step_impl(self, action: Any, timeout_s: float | None = None, **_: Any) -> Observation:
        return Observation(metadata={"error": f"unknown action type: {type(action).__name__}"})

    @property
    def state(self) -> State:
        return self._state


def serve(environment: Callable[[], MCPEnvironment]) -> None:
    """Serves an environment until SIGTERM, with room for two sessions."""
    app = create_app(
        environment,
        CallToolAction,
        CallToolObservation,
        env_name="echo_env",
        max_concurrent_envs=2,
    )
    # uvicorn drains, then raises the signal again for the handler that was there before.
    signal.signal(signal.SIGTERM, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"echo_openenv: serving echo on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    serve(EchoEnvironment)
