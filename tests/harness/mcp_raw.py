"""MCP by hand, over stdio and over HTTP, so that what crosses the wire is seen as it is.

Entry points: `over_stdio` (2025-11-25, with the handshake) and `stateless` (2026-07-28, one POST).
"""

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

from harness.plain_http import Reply, exchange

HANDSHAKE = "2025-11-25"
STATELESS = "2026-07-28"
CLIENT = {"name": "oxenv-tests", "version": "1"}
# Which parameter a request's Mcp-Name header repeats.
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class Connection:
    """An MCP server's standard input and output, after the handshake."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self._last_id = 0
        capabilities: dict[str, Any] = {}
        self.request(
            "initialize", {"protocolVersion": HANDSHAKE, "capabilities": capabilities, "clientInfo": CLIENT}
        )
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of one request; notifications that come before it are passed over."""
        self._last_id += 1
        self._send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params or {}})
        while line := self.process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == self._last_id and "method" not in message:
                assert "result" in message, message
                return message["result"]
        raise AssertionError(f"the server ended with {self.process.wait()} before it answered {method}")

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.request("tools/call", {"name": name, "arguments": arguments})

    def _send(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()


@contextmanager
def over_stdio(
    command: Sequence[str], env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Connection]:
    """A direct connection to a server that this starts and ends."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env=os.environ | (env or {}),
    )
    try:
        yield Connection(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def stateless_request(
    method: str, params: dict[str, Any] | None = None, id: Any = 1
) -> tuple[dict[str, str], bytes]:
    """The headers and the body of one request of the newest revision."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": CLIENT,
    }
    params = dict(params or {})
    params["_meta"] = meta | params.get("_meta", {})
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": STATELESS,
        "mcp-method": method,
    }
    if method in NAMED_BY:
        headers["mcp-name"] = params[NAMED_BY[method]]
    return headers, json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()


def stateless(url: str, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole JSON-RPC reply to one request of the newest revision."""
    headers, body = stateless_request(method, params)
    return replied(exchange("POST", url, headers, body, timeout_s=60.0))


def replied(reply: Reply) -> dict[str, Any]:
    """The JSON-RPC reply in an HTTP reply: JSON, or the last event of a stream."""
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        return events(reply.body)[-1]
    return reply.json()


def events(stream: bytes) -> list[dict[str, Any]]:
    """The messages of an event stream; events without data are keep-alives."""
    blocks = stream.decode().replace("\r\n", "\n").split("\n\n")
    data = [
        "\n".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
        for block in blocks
    ]
    return [json.loads(message) for message in data if message]
