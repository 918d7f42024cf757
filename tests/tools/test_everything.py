"""server-everything behind oxenv: what is more than text, progress, cancellation, resources, prompts."""

import asyncio
import base64
import json
import re
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from harness import components
from harness.mcp_raw import events, stateless, stateless_request
from harness.plain_http import exchange, post
from harness.sdk_clients import as_json, python_sdk, typescript
from harness.server import Server, running, tools_command
from tools.mixed import write_manifest

CONTENTS = [
    ("get-tiny-image", {}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-annotated-message", {"messageType": "debug"}),
    ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
    ("get-resource-reference", {"resourceType": "Blob", "resourceId": 2}),
    ("get-resource-links", {"count": 3}),
    ("get-structured-content", {"location": "New York"}),
    ("get-sum", {"a": 1, "b": 2.5}),
]
LONG = "trigger-long-running-operation"


@dataclass(frozen=True)
class Recorded:
    """A server whose upstream's input is also written to a file."""

    server: Server
    received: Path

    @property
    def mcp(self) -> str:
        return f"{self.server.url}/mcp"

    def heard(self) -> list[dict]:
        """The messages that the upstream got so far."""
        lines = self.received.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def hears(self, method: str, more_than: int = 0) -> None:
        """Wait until the upstream has got that message more often than that."""
        deadline = time.monotonic() + 20.0
        while sum(message.get("method") == method for message in self.heard()) <= more_than:
            assert time.monotonic() < deadline, f"no {method} among {self.heard()}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everything")
    received = folder / "received.jsonl"
    received.touch()
    entries = [components.recorded(components.everything(), received).in_manifest("everything")]
    entries.append(components.filesystem("${workspace}").in_manifest("files"))
    with running(*tools_command(write_manifest(folder / "tools.yaml", entries))) as server:
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        yield Recorded(server, received)


@pytest.mark.parametrize(("tool", "arguments"), CONTENTS)
def test_content_is_unharmed(tool, arguments, recorded, directly):
    expected = directly("everything").call(tool, arguments)
    got = stateless(recorded.mcp, "tools/call", {"name": tool, "arguments": arguments})["result"]
    for key in ("content", "structuredContent"):
        assert without_times(got.get(key)) == without_times(expected.get(key))


def without_times(content: object) -> object:
    """Its dynamic resources say when they were made, the binary ones in base64."""

    def readable(block: dict) -> dict:
        return block | {"blob": base64.b64decode(block["blob"]).decode()} if "blob" in block else block

    told = json.dumps(json.loads(json.dumps(content), object_hook=readable))
    return json.loads(re.sub(r"\d{1,2}:\d\d:\d\d( [AP]M)?", "", told))


def test_audio(recorded):
    directories = stateless(recorded.mcp, "tools/call", {"name": "list_allowed_directories", "arguments": {}})
    workspace = Path(directories["result"]["content"][0]["text"].splitlines()[-1])
    sound = workspace / "silence.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    arguments = {"path": str(sound)}
    result = stateless(recorded.mcp, "tools/call", {"name": "read_media_file", "arguments": arguments})[
        "result"
    ]
    (block,) = result["content"]
    assert (block["type"], block["mimeType"]) == ("audio", "audio/wav")
    assert base64.b64decode(block["data"]) == sound.read_bytes()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_progress_reaches_the_python_sdk(mode, recorded):
    seen: list[tuple[float, float | None]] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    async def call() -> dict:
        async with python_sdk(recorded.mcp, mode=mode) as client:
            return as_json(
                await client.call_tool(LONG, {"duration": 0.5, "steps": 3}, progress_callback=told)
            )

    assert "completed" in asyncio.run(call())["content"][0]["text"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_progress_reaches_typescript(recorded):
    operation = ["callTool", {"name": LONG, "arguments": {"duration": 0.5, "steps": 2}}]
    told = typescript(recorded.mcp, [operation])
    assert "completed" in told["results"][0]["content"][0]["text"]
    assert [step["progress"] for step in told["progress"]] == [1, 2]


def test_progress_is_on_the_stream_of_a_stateless_call(recorded):
    params = {"name": LONG, "arguments": {"duration": 0.2, "steps": 2}, "_meta": {"progressToken": "mine"}}
    headers, body = stateless_request("tools/call", params)
    reply = exchange("POST", recorded.mcp, headers, body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *progress, result = events(reply.body)
    assert [step["params"]["progressToken"] for step in progress] == ["mine", "mine"]
    assert "completed" in result["result"]["content"][0]["text"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_cancellation_reaches_the_upstream(mode, recorded):
    method = "notifications/cancelled"
    before = sum(message.get("method") == method for message in recorded.heard())

    async def cancel_at_the_first_progress() -> float:
        async with python_sdk(recorded.mcp, mode=mode) as client:
            with anyio.CancelScope() as scope:

                async def told(*_: object) -> None:
                    scope.cancel()

                await client.call_tool(LONG, {"duration": 60, "steps": 600}, progress_callback=told)
            assert scope.cancelled_caught
            # The session is free again long before the operation would have ended.
            started = time.monotonic()
            await client.call_tool("echo", {"message": "after"})
            return time.monotonic() - started

    assert asyncio.run(cancel_at_the_first_progress()) < 20.0
    recorded.hears(method, more_than=before)


def test_resources_are_offered(recorded, directly):
    expected = directly("everything").request("resources/list")["resources"]

    async def read() -> tuple:
        async with python_sdk(recorded.mcp) as client:
            resources = as_json(await client.list_resources())["resources"]
            templates = as_json(await client.list_resource_templates())["resourceTemplates"]
            text = as_json(await client.read_resource(expected[0]["uri"]))["contents"][0]
            return resources, templates, text

    resources, templates, text = asyncio.run(read())
    assert [resource["uri"] for resource in resources] == [resource["uri"] for resource in expected]
    assert "demo://resource/dynamic/text/{resourceId}" in [template["uriTemplate"] for template in templates]
    assert (
        text == directly("everything").request("resources/read", {"uri": expected[0]["uri"]})["contents"][0]
    )


def test_prompts_are_offered(recorded, directly):
    expected = directly("everything").request("prompts/list")["prompts"]
    arguments = {"name": "args-prompt", "arguments": {"city": "Oslo"}}

    async def get() -> tuple:
        async with python_sdk(recorded.mcp) as client:
            prompts = as_json(await client.list_prompts())["prompts"]
            return prompts, as_json(await client.get_prompt("args-prompt", {"city": "Oslo"}))["messages"]

    prompts, messages = asyncio.run(get())
    assert [prompt["name"] for prompt in prompts] == [prompt["name"] for prompt in expected]
    assert messages == directly("everything").request("prompts/get", arguments)["messages"]


def test_a_child_sees_only_its_own_environment(tmp_path, serve_tools):
    entry = components.everything().in_manifest("everything")
    entry["mcp_server"]["env"] = {"NAMED": "${GIVEN}"}
    server = serve_tools(
        write_manifest(tmp_path / "tools.yaml", [entry]), env={"GIVEN": "value", "HIDDEN": "no"}
    )
    result = stateless(f"{server.url}/mcp", "tools/call", {"name": "get-env", "arguments": {}})["result"]
    environment = json.loads(result["content"][0]["text"])
    assert environment["NAMED"] == "value"
    assert set(environment) - {"NAMED"} <= {"PATH", "HOME", "TMPDIR", "LANG"}
