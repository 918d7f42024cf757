"""One HTTP exchange per connection, with exactly the headers asked for.

Standard library only, so that no client library adds, follows or retries.
"""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """A status, headers in lower case, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(
    method: str,
    url: str,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = 30.0,
) -> Reply:
    """Send one request as curl would: no Content-Length without a body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.putrequest(
            method, parts.path + (f"?{parts.query}" if parts.query else ""), skip_accept_encoding=True
        )
        for name, value in ({"accept": "*/*"} | (headers or {})).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, received, response.read())
    finally:
        connection.close()


def get(url: str, **options: Any) -> Reply:
    return exchange("GET", url, **options)


def post(url: str, document: Any = None, **options: Any) -> Reply:
    """POST a JSON document, or nothing at all."""
    if document is None:
        return exchange("POST", url, **options)
    return exchange(
        "POST", url, {"content-type": "application/json"}, json.dumps(document).encode(), **options
    )


def rpc(url: str, method: str, params: dict[str, Any] | None = None, id: Any = 1) -> dict[str, Any]:
    """One JSON-RPC request in the OpenEnv dialect; the whole reply."""
    request = {"jsonrpc": "2.0", "id": id, "method": method}
    if params is not None:
        request["params"] = params
    reply = post(f"{url}/mcp", request)
    assert reply.status == 200, (reply.status, reply.body)
    return reply.json()
