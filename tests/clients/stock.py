"""Which stock client this environment has, and what both versions share.

`openenv` is the newer name of the package that was `openenv-core`.
"""

import asyncio
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Coroutine

import pytest
import websockets
from websockets.sync.client import ClientConnection, connect


def _installed() -> str:
    for package in ("openenv", "openenv-core"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise AssertionError("neither openenv nor openenv-core is installed")


VERSION = _installed()
NEWEST = VERSION == "0.10.0"
OLDEST = VERSION == "0.2.3"
assert NEWEST or OLDEST, f"the suites are written for 0.10.0 and 0.2.3, not {VERSION}"

TEST_TIMEOUT_S = 60.0


def newest_only(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not NEWEST, reason=f"applies to openenv 0.10.0, not {VERSION}: {why}")


def oldest_only(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not OLDEST, reason=f"applies to openenv-core 0.2.3, not {VERSION}: {why}")


def run(test: Coroutine[Any, Any, Any], timeout_s: float = TEST_TIMEOUT_S) -> Any:
    """Run an async test body; a hang is a failure."""

    async def bounded() -> Any:
        return await asyncio.wait_for(test, timeout_s)

    return asyncio.run(bounded())


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool call as a step, in OpenEnv's spelling."""
    return {"type": "call_tool", "tool_name": tool, "arguments": arguments}


def open_socket(url: str, path: str = "/ws", **options: Any) -> ClientConnection:
    """A raw socket, for frames that no stock client sends."""
    return connect(url.replace("http://", "ws://") + path, proxy=None, **options)


def ask(socket: ClientConnection, message: Any) -> dict[str, Any]:
    """Send one frame (text as it is, anything else as JSON) and read one reply."""
    socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    return json.loads(socket.recv(timeout=20))


def closed_with(socket: ClientConnection) -> int:
    """The close code that the server sends next."""
    try:
        frame = socket.recv(timeout=20)
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd is not None, "the server dropped the connection without a close frame"
        return closed.rcvd.code
    raise AssertionError(f"a frame instead of a close: {frame!r}")


async def refusal(client: Any) -> str:
    """What a client that connected reads when the server then refuses its session.

    0.2.3 raises ConnectionClosed when the refusal beats its own send; the frame waits
    in the socket even then, and 0.10.0 reads it there.
    """
    try:
        await client.reset()
    except RuntimeError as error:
        return str(error)
    except websockets.ConnectionClosed:
        data = json.loads(await client._ws.recv())["data"]
        return f"{data['message']} (code: {data['code']})"
    raise AssertionError("the session was not refused")
