"""Several servers in one action, and a manifest beside an environment of its own."""

from clients.test_journal import TOOLS, walk
from harness import components
from harness.plain_http import get, post
from tools.doors import Answer, step
from tools.mixed import write_manifest


def graph(url: str, *calls: dict) -> dict:
    reply = step(url, {"type": "call_tools", "calls": list(calls)})
    assert (reply["reward"], reply["done"]) == (None, False)
    return reply["observation"]["results"]


def text(result: dict) -> str:
    assert result["error"] is None, result
    return Answer.of_mcp(result["result"]).text


def test_the_result_of_one_server_is_the_argument_of_another(server):
    results = graph(
        server.url,
        {"id": "weather", "tool_name": "get-structured-content", "arguments": {"location": "Chicago"}},
        {
            "id": "said",
            "tool_name": "everything__echo",
            "arguments": {"message": "${weather.temperature} degrees"},
        },
        {
            "id": "rows",
            "tool_name": "read_query",
            "arguments": {"query": "SELECT '${weather.conditions}' AS sky"},
        },
    )
    assert text(results["said"]) == "Echo: 36 degrees"
    assert "Light rain / drizzle" in text(results["rows"])


def test_a_text_is_a_result_too(server):
    results = graph(
        server.url,
        {"id": "first", "tool_name": "echo", "arguments": {"message": "one"}},
        {"id": "second", "tool_name": "everything__echo", "arguments": {"message": "${first}"}},
    )
    assert text(results["second"]) == "Echo: Echo: one"


def test_what_cannot_be_run_whole_does_not_begin(server):
    before = get(f"{server.url}/state").json()["step_count"]
    calls = [
        {"id": "a", "tool_name": "echo", "arguments": {"message": "${b}"}},
        {"id": "b", "tool_name": "echo", "arguments": {"message": "${a}"}},
    ]
    reply = post(f"{server.url}/step", {"action": {"type": "call_tools", "calls": calls}})
    assert reply.status == 422 and b"need each other" in reply.body
    assert get(f"{server.url}/state").json()["step_count"] == before


def test_the_journals_walk_with_tools_beside_the_environments_own(tmp_path, serve_tools):
    manifest = write_manifest(tmp_path / "tools.yaml", [components.time().in_manifest("time")])
    server = serve_tools(manifest, environment="echo")
    health, reset, listed, called, mcp_listed, mcp_called = walk(server.port)
    assert health == {"status": "healthy"}
    assert (reset["reward"], reset["done"]) == (0.0, False)
    names = [tool["name"] for tool in listed["observation"]["metadata"]["tools"]]
    assert names == [*TOOLS, "get_current_time", "convert_time"]
    assert called["observation"]["metadata"]["result"] == "Hello MCP!"
    assert [tool["name"] for tool in mcp_listed["result"]["tools"]] == names
    assert mcp_called["result"]["data"] == "Hello from MCP endpoint!"
