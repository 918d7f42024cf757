"""Sends the recorded requests to a live server, in order, over real sockets.

Entry points: `load` and `replay`, which returns one live document for each exchange.
Recorded ids in later requests are replaced by the ids that the live server gave.
"""

import asyncio
import json
from typing import Any

import websockets
from harness.plain_http import exchange as http_exchange
from transcripts.compare import Ids, compare
from transcripts.parse import (
    FOLDER,
    HttpExchange,
    WsExchange,
    WsSection,
    http_document,
    json_or_text,
    parse_http,
    parse_ws,
)

REPLY_TIMEOUT_S = 20.0


def load(transcript: str) -> list[HttpExchange] | list[WsExchange]:
    """The exchanges of one transcript, in order."""
    text = (FOLDER / f"{transcript}.txt").read_text()
    if transcript.endswith("-http"):
        return parse_http(text)
    return [exchange for section in parse_ws(text) for exchange in section.exchanges]


def replay(url: str, transcript: str) -> list[Any]:
    """Replay one transcript against a fresh server of echo with two slots."""
    text = (FOLDER / f"{transcript}.txt").read_text()
    if transcript.endswith("-http"):
        return _replay_http(url, parse_http(text))
    return asyncio.run(_replay_ws(url, parse_ws(text)))


def _replay_http(url: str, exchanges: list[HttpExchange]) -> list[Any]:
    ids, live = Ids(), []
    for exchange in exchanges:
        body = None if exchange.body is None else ids.translate(exchange.body).encode()
        reply = http_exchange(exchange.method, url + exchange.path, exchange.headers, body)
        live.append(http_document(reply.status, reply.headers, reply.body.decode()))
        compare(exchange, live[-1], ids)
    return live


async def _replay_ws(url: str, sections: list[WsSection]) -> list[Any]:
    sockets = Sockets(url.replace("http://", "ws://"))
    for section in sections:
        if "handshake" in section.exchanges[0].recorded:
            await sockets.refused(section)
        elif section.title.startswith("capacity "):
            await sockets.full(section, slots=int(section.title.split()[1]))
        elif section.title.startswith("pipelining: 3 requests"):
            await sockets.ahead(section)
        else:
            await sockets.one_by_one(section)
    return sockets.live


class Sockets:
    """Replays the sections of a WebSocket recording, a socket for each."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.ids = Ids()
        self.live: list[Any] = []

    def connect(self, path: str) -> Any:
        return websockets.connect(self.base + path, proxy=None, open_timeout=REPLY_TIMEOUT_S)

    async def one_by_one(self, section: WsSection) -> None:
        """Each request waits for the reply to the one before."""
        async with self.connect("/mcp" if section.title.startswith("/mcp") else "/ws") as socket:
            for exchange in section.exchanges:
                sent = exchange.sent
                await socket.send(self.ids.translate(sent) if isinstance(sent, str) else sent)
                await self._outcome(socket, exchange)

    async def ahead(self, section: WsSection) -> None:
        """All requests are sent before the first reply is read.

        The recorder kept only the replies; their texts are the numbers from 0.
        """
        async with self.connect("/ws") as socket:
            for number in range(len(section.exchanges)):
                arguments = {"message": str(number)}
                action = {"type": "call_tool", "tool_name": "echo_message", "arguments": arguments}
                await socket.send(json.dumps({"type": "step", "data": action}))
            for exchange in section.exchanges:
                await self._outcome(socket, exchange)

    async def full(self, section: WsSection, slots: int) -> None:
        """One more socket than there are slots, at `/ws` and then at `/mcp`."""
        holders = [await self._hold() for _ in range(slots)]
        try:
            for path, exchange in zip(("/ws", "/mcp"), section.exchanges, strict=True):
                async with self.connect(path) as socket:
                    await self._outcome(socket, exchange)
        finally:
            for holder in holders:
                await holder.close()

    async def _hold(self) -> Any:
        """A socket with a session; those of earlier sections may still be ending."""
        deadline = asyncio.get_running_loop().time() + REPLY_TIMEOUT_S
        while True:
            socket = await self.connect("/ws")
            await socket.send('{"type": "state"}')
            if json.loads(await asyncio.wait_for(socket.recv(), REPLY_TIMEOUT_S))["type"] == "state":
                return socket
            await socket.close()
            assert asyncio.get_running_loop().time() < deadline, (
                "no free slot: an ended socket keeps its session"
            )

    async def refused(self, section: WsSection) -> None:
        """A handshake that the server refuses."""
        try:
            async with self.connect(section.title.removesuffix(" ws")):
                status = 101
        except websockets.InvalidStatus as refusal:
            status = refusal.response.status_code
        self.live.append({"handshake": {"status": status}})

    async def _outcome(self, socket: Any, exchange: WsExchange) -> None:
        """Read as much as the recording has after one request."""
        document: dict[str, Any] = {}
        if "reply" in exchange.recorded:
            try:
                document["reply"] = json_or_text(await asyncio.wait_for(socket.recv(), REPLY_TIMEOUT_S))
            except websockets.ConnectionClosed as closed:
                document["reply"] = {"closed instead of a reply": str(closed)}
            except TimeoutError:
                document["reply"] = {"no reply after seconds": REPLY_TIMEOUT_S}
        if "close" in exchange.recorded:
            close = await _close_of(socket)
            document["close"] = {
                name: value for name, value in close.items() if name in exchange.recorded["close"]
            }
        self.live.append(document)
        compare(exchange, document, self.ids)


async def _close_of(socket: Any) -> dict[str, Any]:
    """How the live socket ended, or, under the name of a code, what it did instead."""
    try:
        frame = await asyncio.wait_for(socket.recv(), REPLY_TIMEOUT_S)
        return {"code": f"frame instead of a close: {frame}"}
    except TimeoutError:
        return {"code": f"still open after {REPLY_TIMEOUT_S} s"}
    except websockets.ConnectionClosed as closed:
        frame = closed.rcvd
        if frame is None:
            return {"code": "no close frame"}
        return {"code": frame.code, "reason": frame.reason, "server_first": closed.rcvd_then_sent}
