"""Each kind of result is told whole in every spelling, whichever real server gives it: the table of
docs/results.md.

The servers are FastMCP over stdio and HTTP, the TypeScript SDK's `everything`, Rust functions and Python
functions.
"""

import asyncio
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator

import pytest
from conformance.suite import fixture_server
from harness import components
from harness.everything import free_port
from harness.http_process import mcp_over_http
from harness.mcp_raw import stateless
from harness.plain_http import post, rpc
from harness.sdk_clients import as_json, python_sdk
from harness.server import running, tools_command
from tools.doors import step
from tools.mixed import write_manifest


@dataclass(frozen=True)
class Kind:
    """What a tool gives: the value of its structured part, the kinds of its blocks, and its text."""

    tool: str
    value: Any = None
    blocks: tuple[str, ...] = ("text",)
    text: str | None = None
    arguments: dict[str, Any] | None = None
    failed: bool = False
    # Whether the blocks say more than the value, so that the journal has them too.
    more: bool = False


FASTMCP = [
    Kind("text", "hi", text="hi"),
    Kind("plain", text="hi"),
    Kind("structured", {"n": 1, "items": [1.5, None]}, text='{"n":1,"items":[1.5,null]}'),
    Kind("numbers", [1, 2], text="[1,2]"),
    Kind("wrapped_by_schema", "hi"),
    Kind("image", blocks=("image",), text="", more=True),
    Kind("audio", blocks=("audio",), text="", more=True),
    Kind("link", blocks=("resource_link",), text="", more=True),
    Kind("embedded", blocks=("resource",), text="", more=True),
    Kind("nothing", blocks=(), text=""),
    Kind("fails", text="no such file", failed=True),
    Kind("fails_with_structure", {"after_s": 5}, text="late", failed=True),
]
EVERYTHING = [
    Kind("echo", text="Echo: hi", arguments={"message": "hi"}),
    Kind("get-tiny-image", blocks=("text", "image", "text"), more=True),
    Kind("get-annotated-message", blocks=("text",), arguments={"messageType": "error"}, more=True),
    Kind("get-resource-links", blocks=("text", "resource_link"), arguments={"count": 1}, more=True),
    Kind(
        "get-resource-reference",
        blocks=("text", "resource", "text"),
        arguments={"resourceType": "Text", "resourceId": 1},
        more=True,
    ),
    Kind(
        "get-structured-content",
        {"temperature": 33, "conditions": "Cloudy", "humidity": 82},
        arguments={"location": "New York"},
    ),
]
NATIVE = [
    Kind("test_simple_text"),
    Kind("test_image_content", blocks=("image",), text="", more=True),
    Kind("test_audio_content", blocks=("audio",), text="", more=True),
    Kind("test_embedded_resource", blocks=("resource",), text="", more=True),
    Kind("test_multiple_content_types", blocks=("text", "image", "resource"), more=True),
    Kind("test_error_handling", text="This tool intentionally returns an error for testing", failed=True),
]
PYTHON = [
    Kind("text", "hi", text="hi"),
    Kind("structured", {"n": 1}, text='{"n": 1}'),
    Kind("numbers", [1, 2], text="[1, 2]"),
    Kind("of_numpy", {"mean": 2.0, "all": [1, 3], "best": 3}),
    Kind("nothing", blocks=(), text=""),
    Kind("fails", text="ValueError: no such file", failed=True),
]
FUNCTIONS = """
import numpy

def text() -> str:
    return "hi"

def structured() -> dict:
    return {"n": 1}

def numbers() -> list[int]:
    return [1, 2]

def of_numpy() -> dict:
    values = numpy.array([1, 3])
    return {"mean": values.mean(), "all": values, "best": values.max()}

def nothing() -> None:
    return None

def fails() -> str:
    raise ValueError("no such file")

def refused() -> dict:
    return {"loss": numpy.float64("nan")}
"""


@pytest.fixture(scope="module")
def fastmcp_over_http() -> Iterator[str]:
    port = free_port()
    with mcp_over_http(components.results(str(port)).command_line, port) as url:
        yield url


@contextmanager
def serving(folder, entry) -> Iterator[str]:
    with running(*tools_command(write_manifest(folder / "tools.yaml", [entry]))) as server:
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        yield server.url


@pytest.fixture(scope="module")
def servers(tmp_path_factory, fastmcp_over_http) -> Iterator[dict[str, str]]:
    """The URL of our server before each source of tools."""
    folder = tmp_path_factory.mktemp
    remote = {"name": "results", "type": "mcp", "mcp_server": {"url": fastmcp_over_http, "transport": "http"}}
    python = folder("python")
    (python / "tools.py").write_text(FUNCTIONS)
    path = f"{components.venv_program('mcp-servers', 'python3').parent}:{os.environ['PATH']}"
    functions = {"transport": "python", "path": "tools.py", "env": {"PATH": path}}
    fixture = components.TARGET / "debug" / "examples" / "conformance_server"
    with (
        serving(folder("stdio"), components.results().in_manifest("results")) as stdio,
        serving(folder("http"), remote) as http,
        serving(folder("everything"), components.everything().in_manifest("everything")) as everything,
        serving(python, {"name": "mine", "type": "mcp", "mcp_server": functions}) as mine,
        fixture_server([str(fixture)]) as native,
    ):
        native = native.removesuffix("/mcp")
        yield {"stdio": stdio, "http": http, "everything": everything, "native": native, "python": mine}


TABLE = [("stdio", kind) for kind in FASTMCP]
TABLE += [("http", kind) for kind in FASTMCP]
TABLE += [("everything", kind) for kind in EVERYTHING]
TABLE += [("native", kind) for kind in NATIVE]
TABLE += [("python", kind) for kind in PYTHON]


@pytest.mark.parametrize(("source", "kind"), TABLE, ids=lambda value: getattr(value, "tool", value))
def test_a_result_is_told_whole_in_every_spelling(source, kind, servers):
    url, arguments = servers[source], kind.arguments or {}
    stock = timeless(
        step(url, {"type": "call_tool", "tool_name": kind.tool, "arguments": arguments})["observation"]
    )
    whole = stock["metadata"]["oxenv"]["result"] if kind.failed else stock["result"]
    assert [block["type"] for block in whole["content"]] == list(kind.blocks)
    assert (whole["data"], whole["is_error"]) == (kind.value, kind.failed)
    text = "\n".join(block["text"] for block in whole["content"] if block["type"] == "text")
    assert kind.text is None or text == kind.text
    error = {"error_type": "execution_error", "message": text} if kind.failed else None
    assert (stock["result"], stock["error"]) == (None if kind.failed else whole, error)

    action = {"action_type": "tool", "tool_name": kind.tool, "tool_args": arguments}
    unified = timeless(step(url, action)["observation"])
    assert (unified["stdout"], unified["result"], unified["error"]) == (text, stock["result"], error)
    assert unified["metadata"] == stock["metadata"]

    calls = {"type": "call_tools", "calls": [{"id": "a", "tool_name": kind.tool, "arguments": arguments}]}
    graph = timeless(step(url, calls)["observation"])
    assert graph["results"] == {"a": {"result": stock["result"], "error": error}}
    assert graph["metadata"] == ({"oxenv": {"calls": {"a": {"result": whole}}}} if kind.failed else {})

    action = {"type": "CallToolAction", "tool_name": kind.tool, "parameters": arguments}
    journal = timeless(step(url, action)["observation"]["metadata"])
    if kind.failed:
        assert journal == {"error": text, "oxenv": {"result": whole}}
    else:
        result = text if whole["structured_content"] is None else kind.value
        assert journal == {"result": result} | ({"content": whole["content"]} if kind.more else {})

    for told in (newest(url, kind.tool, arguments), with_handshake(url, kind.tool, arguments)):
        told = timeless(told)
        assert without_nulls(told["content"]) == without_nulls(whole["content"])
        assert told.get("structuredContent") == whole["structured_content"]
        assert (told.get("isError") or False) == kind.failed

    dialect = timeless(rpc(url, "tools/call", {"name": kind.tool, "arguments": arguments}))
    if kind.failed:
        assert (dialect["error"]["code"], dialect["error"]["message"]) == (-32603, text)
    else:
        assert dialect["result"] == whole


def test_what_is_no_json_is_a_typed_error_in_every_spelling(servers):
    url = servers["python"]
    message = (
        "what 'refused' returned cannot be JSON: it['loss'] is nan; "
        "return finite numbers, texts, lists and dicts"
    )
    error = {"error_type": "execution_error", "message": message}
    stock = step(url, {"type": "call_tool", "tool_name": "refused", "arguments": {}})
    assert (stock["observation"]["result"], stock["observation"]["error"], stock["reward"]) == (
        None,
        error,
        None,
    )
    assert stock["metadata"]["oxenv"]["code"] == "INVALID_RESULT"
    journal = step(url, {"type": "CallToolAction", "tool_name": "refused", "parameters": {}})["metadata"]
    assert (journal["error"], journal["oxenv"]["code"]) == (message, "INVALID_RESULT")
    unified = step(url, {"action_type": "tool", "tool_name": "refused", "tool_args": {}})["observation"]
    assert (unified["stdout"], unified["result"], unified["error"]) == ("", None, error)
    for told in (newest(url, "refused", {}), with_handshake(url, "refused", {})):
        assert told["isError"] and told["content"][0]["text"] == message
        assert told["_meta"]["oxenv"]["code"] == "INVALID_RESULT"


def timeless(told: Any) -> Any:
    """The same without the time of day that `everything` writes into a resource."""
    return json.loads(re.sub(r"created at \d+:\d+:\d+ [AP]M", "created", json.dumps(told)))


def newest(url: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return stateless(f"{url}/mcp", "tools/call", {"name": name, "arguments": arguments})["result"]


def with_handshake(url: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    async def called() -> dict[str, Any]:
        async with python_sdk(f"{url}/mcp", mode="legacy") as client:
            return as_json(await client.call_tool(name, arguments))

    return asyncio.run(called())


def without_nulls(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in block.items() if value is not None} for block in blocks]
