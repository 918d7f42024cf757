"""`python -m transcripts.record URL http|ws`, run in tests/: records calls of tools that fail, as a
transcript.

The server at URL is `reference/failing_openenv.py` in the environment of the version to record.
"""

import asyncio
import http.client
import json
import sys
from urllib.parse import urlsplit

import websockets

CALLS = (("add", {"a": 1, "b": 2}), ("divide", {"a": 1, "b": 0}), ("divide", {"a": 1, "b": 2}))


def steps() -> list[dict]:
    return [{"type": "call_tool", "tool_name": name, "arguments": arguments} for name, arguments in CALLS]


def over_http(url: str) -> None:
    """Each request with what came of it, as `curl -i` shows it."""
    for action in steps():
        body = json.dumps({"action": action})
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("POST", "/step", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        print(f"### -X POST {url}/step -H content-type: application/json -d {body}")
        print(f"HTTP/1.1 {reply.status} {reply.reason}")
        for name in ("server", "content-length", "content-type"):
            print(f"{name}: {reply.headers[name]}")
        print(f"\n{reply.read().decode()}\n\n")
        connection.close()
    print("===")


async def over_ws(url: str) -> None:
    """The same calls as steps of a socket, and in MCP frames."""
    print("== /ws failing tool")
    frames = [{"type": "step", "data": action} for action in steps()]
    for number, (name, arguments) in enumerate(CALLS, start=1):
        params = {"name": name, "arguments": arguments}
        call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        frames.append({"type": "mcp", "data": call})
    async with websockets.connect(url.replace("http", "ws") + "/ws", proxy=None) as socket:
        for frame in frames:
            await socket.send(json.dumps(frame))
            print(f"> {json.dumps(frame)}")
            print(f"< {await socket.recv()}")


if __name__ == "__main__":
    if sys.argv[2] == "http":
        over_http(sys.argv[1])
    else:
        asyncio.run(over_ws(sys.argv[1]))
