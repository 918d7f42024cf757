"""Environments whose own actions look like tool calls, or stand beside tools."""

from typing import Any

from fastmcp import FastMCP
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation, ListToolsObservation, Tool
from openenv.core.env_server.types import Action, Observation, State


class Given(Observation):
    given: dict[str, Any] = {}


class Anything(Action):
    model_config = Action.model_config | {"extra": "allow"}


class Spelled(Environment[Anything, Given, State]):
    """Gives back each action as it came, and is done from the start."""

    def reset(self, **_: Any) -> Given:
        return Given(done=True)

    def step(self, action: Anything, timeout_s: float | None = None, **_: Any) -> Given:
        return Given(given=action.model_dump(exclude={"metadata"}))

    @property
    def state(self) -> State:
        return State()


class Say(Action):
    word: str


class Beside(MCPEnvironment):
    """Has a tool without a description, and takes only its own action in a step."""

    def __init__(self) -> None:
        server = FastMCP("beside")

        @server.tool
        def double(number: int) -> int:
            return 2 * number

        super().__init__(server)

    def reset(self, **_: Any) -> Given:
        return Given()

    def step(self, action: Action, timeout_s: float | None = None, **_: Any) -> Given:
        if not isinstance(action, Say):
            raise TypeError(f"not an action of this environment: {type(action).__name__}")
        return self._step_impl(action)

    async def step_async(self, action: Action, timeout_s: float | None = None, **more: Any) -> Given:
        return self.step(action, timeout_s, **more)

    def _step_impl(self, action: Action, timeout_s: float | None = None, **_: Any) -> Given:
        return Given(given={"word": action.word})

    @property
    def state(self) -> State:
        return State()


def factory() -> Beside:
    return Beside()


class Alone(Environment):
    """Takes tool calls in its steps, without a FastMCP server."""

    def reset(self, **_: Any) -> Observation:
        return Observation()

    def step(self, action: CallToolAction, timeout_s: float | None = None, **_: Any) -> Observation:
        if not isinstance(action, CallToolAction):
            schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
            return ListToolsObservation(tools=[Tool(name="double", description="", input_schema=schema)])
        result = 2 * action.arguments["number"]
        return CallToolObservation(tool_name=action.tool_name, result=result, reward=0.5)

    @property
    def state(self) -> State:
        return State()
