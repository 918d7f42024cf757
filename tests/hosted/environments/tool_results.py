"""An MCP environment whose tools end in every way that a tool can end."""

import asyncio
import time
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel


class Point(BaseModel):
    x: int
    y: int = 0


class ToolResults(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        mcp = FastMCP("results")

        @mcp.tool
        def text(word: str = "none") -> str:
            return word * 2

        @mcp.tool
        def nothing() -> None:
            return None

        @mcp.tool
        def point(x: int) -> Point:
            return Point(x=x, y=2)

        @mcp.tool
        def takes_point(point: Point, factor: float = 1.5) -> list[float]:
            return [point.x * factor, point.y * factor]

        @mcp.tool
        def mixed() -> list[Any]:
            return [1, "two", None, {"three": 3.5}, [True]]

        @mcp.tool
        def counted(most: int):
            yield from range(most)

        @mcp.tool
        def fails(text: str) -> str:
            raise ValueError(text)

        @mcp.tool
        def refuses() -> str:
            raise ToolError("not found: a tool's own words")

        @mcp.tool
        def breaks_a_model() -> int:
            return Point(x="no number").x

        @mcp.tool
        def runs_a_loop(seconds: float) -> str:
            asyncio.run(asyncio.sleep(seconds))
            return "slept"

        @mcp.tool
        async def waits(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "waited"

        @mcp.tool
        def sleeps(seconds: float) -> str:
            time.sleep(seconds)
            return "slept"

        @mcp.tool
        async def asks_its_context(key: str, context: Context) -> str:
            await context.info("asked")
            await context.set_state(key, "kept")
            return f"{await context.get_state(key)} {bool(context.session_id)}"

        @mcp.tool
        def hides(name: str) -> str:
            mcp.disable(names={name})
            return "hidden"

        super().__init__(mcp)
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        return Observation()

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        raise ValueError("tools alone")

    async def step_async(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return await super().step_async(action, timeout_s=3.0, **kwargs)

    @property
    def state(self) -> State:
        return self._state
