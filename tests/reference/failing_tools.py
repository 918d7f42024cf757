"""A FastMCP server whose tools fail: over stdio it is an upstream of ours, and `failing_openenv.py` serves it
as the reference does.
"""

from fastmcp import FastMCP


def failing_tools() -> FastMCP:
    """One tool that works, and one that does not."""
    tools = FastMCP("failing")

    @tools.tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tools.tool
    def divide(a: int, b: int) -> float:
        """Divide one number by another."""
        return a / b

    return tools


if __name__ == "__main__":
    failing_tools().run(show_banner=False)
