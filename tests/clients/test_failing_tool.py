"""A tool that says that it failed is an error to `MCPToolClient`, and never a result of None."""

import json

import pytest
from clients.stock import ask, call, open_socket, run
from harness.server import running, tools_command
from openenv.core import MCPToolClient
from openenv.core.env_server.mcp_types import CallToolAction, ToolErrorType

FILE = '''
def divide(a: int, b: int) -> float:
    """Divides."""
    return a / b
'''
SAID = "ZeroDivisionError: division by zero"


@pytest.fixture
def failing(tmp_path):
    """A server whose one tool is a Python function that raises."""
    (tmp_path / "sums.py").write_text(FILE)
    manifest = tmp_path / "tools.json"
    server = {"transport": "python", "path": "sums.py"}
    tool = {"name": "sums", "type": "mcp", "mcp_server": server}
    manifest.write_text(json.dumps({"version": "1.0", "tools": [tool]}))
    with running(*tools_command(manifest)) as server:
        yield server


def test_a_call_raises(failing):
    async def session():
        async with MCPToolClient(base_url=failing.url) as env:
            await env.reset()
            assert await env.call_tool("divide", a=1, b=2) == 0.5
            with pytest.raises(RuntimeError, match=f"Tool 'divide' failed: {SAID}"):
                await env.call_tool("divide", a=1, b=0)

    run(session())


def test_a_step_has_the_error_and_no_result(failing):
    async def session():
        async with MCPToolClient(base_url=failing.url) as env:
            await env.reset()
            failed = await env.step(CallToolAction(tool_name="divide", arguments={"a": 1, "b": 0}))
            assert failed.observation.result is None and failed.reward is None
            error = failed.observation.error
            assert (error.error_type, error.message) == (ToolErrorType.EXECUTION_ERROR, SAID)

    run(session())


def test_what_the_tool_gave_stands_in_the_metadata(failing):
    with open_socket(failing.url) as socket:
        ask(socket, {"type": "reset"})
        reply = ask(socket, {"type": "step", "data": call("divide", a=1, b=0)})
    result = reply["data"]["observation"]["metadata"]["oxenv"]["result"]
    assert (result["is_error"], result["content"][0]["text"]) == (True, SAID)
