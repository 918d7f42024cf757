"""Reads the recorded transcripts into exchanges.

Entry points: `parse_http` and `parse_ws`. A recorded body must have the length its
header says, so a parser that loses a byte of a recording fails at once.
"""

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

REQUEST = re.compile(
    r"### (?:-X (?P<method>[A-Z]+) )?http://[^/ ]+(?P<path>/\S*)"
    r"(?: -H (?P<header>[\w-]+): (?P<value>\S+))?(?: -d (?P<body>.*))?"
)
SESSION_CREATE = re.compile(r"### session/create => (?P<reply>\{.*\})")
CLOSED = re.compile(
    r"< !! ConnectionClosedOK received (?P<code>\d+) \([^)]*\); then sent \d+ \([^)]*\)(?: \d+ '.*')?"
)
CLOSE_CODE = re.compile(r"close code (?P<code>\d+) '(?P<reason>.*)'")
# The recorder looked before the close had come, so it tells nothing.
IGNORED = ("close code None None",)
REFUSED = re.compile(r"InvalidStatus server rejected WebSocket connection: HTTP (?P<status>\d+)")

# What `curl -d` sends when no content type is given.
FORM = "application/x-www-form-urlencoded"
HEADERS = ("content-type", "allow")


@dataclass
class Exchange:
    """One request and what was recorded of its outcome.

    `label` names it in reports and in the allow-list. `recorded` is a JSON document:
    status, headers and body over HTTP; reply and close, or handshake, over a socket.
    """

    label: str
    recorded: dict[str, Any]
    cut: bool = False


@dataclass
class HttpExchange(Exchange):
    """A request made with curl."""

    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


@dataclass
class WsExchange(Exchange):
    """A frame sent, None where the recorder kept only the reply."""

    sent: str | bytes | None = None


@dataclass
class WsSection:
    """One socket's life."""

    title: str
    exchanges: list[WsExchange] = field(default_factory=list)


def parse_http(text: str) -> list[HttpExchange]:
    """The exchanges of a recording made with curl, in order."""
    lines = text.split("\n")
    starts = [
        index
        for index, line in enumerate(lines)
        if line.startswith(("### ", "===")) or index == len(lines) - 1
    ]
    exchanges = []
    for start, end in zip(starts, starts[1:]):
        if lines[start].startswith("### "):
            exchanges.append(_http_exchange(lines[start], lines[start + 1 : end]))
    return exchanges


def _http_exchange(head: str, rest: list[str]) -> HttpExchange:
    if created := SESSION_CREATE.fullmatch(head):
        # The recorder kept only the reply of this call; its id tells the request's.
        reply = created["reply"]
        body = json.dumps({
            "jsonrpc": "2.0",
            "id": json.loads(reply)["id"],
            "method": "openenv/session/create",
        })
        json_type = {"content-type": "application/json"}
        recorded = http_document(200, json_type, reply)
        return HttpExchange(
            f"POST /mcp {body}", recorded, method="POST", path="/mcp", headers=json_type, body=body
        )
    request = REQUEST.fullmatch(head)
    assert request, f"not a recorded request: {head!r}"
    method, path, body = request["method"] or "GET", request["path"], request["body"]
    headers = {}
    if request["header"]:
        headers[request["header"].lower()] = request["value"]
    elif body is not None:
        headers["content-type"] = FORM
    blank = rest.index("")
    status = int(rest[0].split(" ")[1])
    reply_headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest[1:blank])}
    reply = "\n".join(rest[blank + 1 :]).rstrip("\n")
    expected = int(reply_headers["content-length"])
    assert len(reply.encode()) == expected, (
        f"{head!r}: body of {len(reply.encode())} bytes, recorded {expected}"
    )
    label = f"{method} {path}" + ("" if body is None else f" {body}")
    recorded = http_document(status, reply_headers, reply)
    return HttpExchange(label, recorded, method=method, path=path, headers=headers, body=body)


def http_document(status: int, headers: dict[str, str], body: str) -> dict[str, Any]:
    """What is compared of a reply: headers only where they tell more than the HTTP library's name."""
    compared = {name: headers[name] for name in HEADERS if name in headers}
    return {"status": status, "headers": compared, "body": json_or_text(body)}


def json_or_text(text: str) -> Any:
    """The JSON value of a reply, or a document that says that it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return {"text that is no JSON": text}


def parse_ws(text: str) -> list[WsSection]:
    """The sockets of a recording, in order."""
    sections: list[WsSection] = []
    for line in text.splitlines():
        if line.startswith("== "):
            sections.append(WsSection(line[3:]))
        elif line.startswith("-- ") or not line.strip():
            continue
        else:
            _ws_line(sections[-1], line)
    return sections


def _ws_line(section: WsSection, line: str) -> None:
    if line.startswith("> "):
        _append(section, line, _frame(line[2:]))
    elif closed := CLOSED.fullmatch(line):
        # The exception's text tells who closed first.
        section.exchanges[-1].recorded["close"] = {"code": int(closed["code"]), "server_first": True}
    elif line.startswith("< "):
        if not section.exchanges or "reply" in section.exchanges[-1].recorded:
            _append(section, "> (not recorded)", None)
        exchange = section.exchanges[-1]
        exchange.recorded["reply"], exchange.cut = _reply(line[2:])
    elif match := CLOSE_CODE.fullmatch(line):
        close = section.exchanges[-1].recorded.setdefault("close", {})
        close |= {"code": int(match["code"]), "reason": match["reason"]}
    elif match := REFUSED.fullmatch(line):
        _append(section, "> (handshake)", None)
        section.exchanges[-1].recorded["handshake"] = {"status": int(match["status"])}
    else:
        assert line in IGNORED, f"not a recorded line: {line!r}"


def _append(section: WsSection, line: str, sent: str | bytes | None) -> None:
    label = f"{section.title} #{len(section.exchanges) + 1} {line}"
    section.exchanges.append(WsExchange(label, {}, sent=sent))


def _frame(text: str) -> str | bytes:
    return ast.literal_eval(text) if text.startswith("b'") else text


def _reply(text: str) -> tuple[Any, bool]:
    """A recorded reply, and whether the recorder cut it."""
    try:
        return json.loads(text), False
    except ValueError:
        return beginning(text), True


def beginning(text: str) -> Any:
    """The JSON value that a cut text holds up to its last complete member."""
    for end in range(len(text), 0, -1):
        try:
            return json.loads(text[:end] + _closers(text[:end]))
        except ValueError:
            continue
    raise ValueError(f"no JSON value begins with {text!r}")


def _closers(text: str) -> str:
    """The brackets that are open at the end of a JSON text, closed."""
    opened = []
    for mark in re.sub(r'"(\\.|[^"\\])*"', "", text):
        if mark in "{[":
            opened.append("}" if mark == "{" else "]")
        elif mark in "}]":
            opened.pop()
    return "".join(reversed(opened))
