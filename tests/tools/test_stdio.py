"""`oxenv mcp`: the same toolbox over standard input and output, for agents on a desktop."""

import asyncio

from harness.sdk_clients import as_json, python_sdk
from harness.server import binary, clean_environment
from mcp import StdioServerParameters
from tools.doors import Answer
from tools.mixed import TOKEN_FROM, TOOLSETS, Mixed


def parameters(mixed: Mixed) -> StdioServerParameters:
    env = clean_environment() | TOKEN_FROM
    return StdioServerParameters(command=str(binary()), args=["mcp", "--tools", str(mixed.manifest)], env=env)


def test_lists_and_calls(mixed, directly):
    async def use() -> tuple[list[str], list[Answer]]:
        async with python_sdk(parameters(mixed)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            results = [await client.call_tool(call.name, call.arguments) for call in mixed.calls()]
            return tools, [Answer.of_mcp(as_json(result)) for result in results]

    tools, answers = asyncio.run(use())
    assert {"echo", "everything__echo", "search_repositories", "git_log", "list_allowed_directories"} <= set(
        tools
    )
    assert len(TOOLSETS) == 9
    assert answers == [
        Answer.of_mcp(directly(call.toolset).call(call.tool, call.arguments)) for call in mixed.calls()
    ]
