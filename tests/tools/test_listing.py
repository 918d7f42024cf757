"""What is offered: `/tools` and every other list is the union of the upstreams' own lists."""

import asyncio

from harness.mcp_raw import stateless
from harness.plain_http import get, rpc
from harness.sdk_clients import python_sdk, typescript
from tools.doors import step
from tools.mixed import TOOLSETS

# The names that a toolset's tools get when another toolset has them already.
PREFIXED = {"everything": "everything__"}


def listed(url: str) -> list[dict]:
    reply = get(f"{url}/tools", timeout_s=60.0)
    assert reply.status == 200, reply.body
    return reply.json()["tools"]


def test_the_union_of_all_toolsets(server):
    tools = listed(server.url)
    assert {tool["toolset"] for tool in tools} == set(TOOLSETS)
    names = [tool["name"] for tool in tools]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 64 for name in names)
    assert listed(server.url) == tools


def test_each_tool_is_as_its_server_describes_it(server, directly):
    by_name = {tool["name"]: tool for tool in listed(server.url)}
    # The filesystem's server names the workspace in no description, so any folder will do elsewhere; here
    # it has no direct twin, because the workspace is oxenv's.
    for toolset in (name for name in TOOLSETS if name != "files"):
        for tool in directly(toolset).request("tools/list")["tools"]:
            offered = by_name[PREFIXED.get(toolset, "") + tool["name"]]
            assert offered["toolset"] == toolset
            for key in ("description", "inputSchema", "outputSchema", "annotations"):
                assert offered[key] == tool.get(key), (toolset, tool["name"], key)


def test_every_door_lists_the_same(server):
    names = [tool["name"] for tool in listed(server.url)]
    stock = step(server.url, {"type": "list_tools"})["observation"]["tools"]
    journal = step(server.url, {"type": "ListToolsAction"})["observation"]["metadata"]["tools"]
    dialect = rpc(server.url, "tools/list")["result"]["tools"]
    newest = stateless(f"{server.url}/mcp", "tools/list")["result"]["tools"]
    for door in (stock, journal, dialect, newest):
        assert [tool["name"] for tool in door] == names

    async def with_the_python_sdk() -> list[str]:
        async with python_sdk(f"{server.url}/mcp") as client:
            assert client.protocol_version == "2026-07-28"
            return [tool.name for tool in (await client.list_tools()).tools]

    assert asyncio.run(with_the_python_sdk()) == names
    (typescripts,) = typescript(f"{server.url}/mcp", [["listTools"]])["results"]
    assert [tool["name"] for tool in typescripts["tools"]] == names


def test_ready_says_so(server):
    assert get(f"{server.url}/ready").status == 200
