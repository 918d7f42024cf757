"""A FastMCP server with a tool for each kind of result: `results_server.py [PORT]`, over stdio without a
port."""

import sys

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools.base import ToolResult
from fastmcp.utilities.types import Audio, Image
from mcp.types import EmbeddedResource, ResourceLink, TextContent, TextResourceContents

server = FastMCP("results")


@server.tool
def text() -> str:
    return "hi"


@server.tool
def plain() -> ToolResult:
    return ToolResult(content=[TextContent(type="text", text="hi")])


@server.tool
def structured() -> dict:
    return {"n": 1, "items": [1.5, None]}


@server.tool
def numbers() -> list[int]:
    return [1, 2]


WRAPPED = {
    "type": "object",
    "properties": {"result": {"type": "string"}},
    "required": ["result"],
    "x-fastmcp-wrap-result": True,
}


@server.tool(output_schema=WRAPPED)
def wrapped_by_schema() -> ToolResult:
    """Only the schema says that the value is wrapped, as with older servers."""
    return ToolResult(structured_content={"result": "hi"})


@server.tool
def image() -> Image:
    return Image(data=b"\0", format="png")


@server.tool
def audio() -> Audio:
    return Audio(data=b"\0", format="wav")


@server.tool
def link() -> ResourceLink:
    return ResourceLink(type="resource_link", uri="file:///a", name="a")


@server.tool
def embedded() -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///a", text="hi"))


@server.tool
def nothing() -> None:
    return None


@server.tool
def fails() -> str:
    raise ToolError("no such file")


@server.tool
def fails_with_structure() -> ToolResult:
    return ToolResult(
        content=[TextContent(type="text", text="late")], structured_content={"after_s": 5}, is_error=True
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
    else:
        server.run(show_banner=False)
