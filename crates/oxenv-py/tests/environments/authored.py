"""Environments on the package's base classes: of tools, of typed actions, and of both."""

import os
import random
from dataclasses import dataclass, field
from typing import Annotated, Any

from oxenv import Action, Environment, LocalMCPServer, Observation, State, ToolEnabledEnvironment

server = LocalMCPServer("calculator")


@server.tool
def add(a: int, b: Annotated[int, "what is added"] = 1) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


@server.tool
async def join(words: list[str]) -> str:
    return " ".join(words)


@server.tool
def divide(a: float, b: float) -> float:
    return a / b


class Calculator(Environment):
    """Its actions are tool calls."""

    def __init__(self) -> None:
        super().__init__(server)


class Sums(Calculator):
    """Rewards the sum 4, which ends the episode."""

    def tool_step(self, tool_name: str, arguments: Any = None) -> Observation:
        observation = super().tool_step(tool_name, arguments)
        observation.done = observation.result is not None and observation.result.data == {"sum": 4}
        observation.reward = float(observation.done)
        return observation


@dataclass
class Guess(Action):
    number: int


@dataclass
class Answer:
    hint: str
    done: bool = False
    reward: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Guessing(Environment[Guess, Answer, State]):
    """Has actions of its own, and tools beside them."""

    def __init__(self) -> None:
        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Answer:
        super().reset(seed, episode_id)
        self.state.number = random.Random(seed).randint(1, options.get("most", 10))
        return Answer("guess")

    def step(self, action: Guess, timeout_s: float | None = None, **options: Any) -> Answer:
        self.state.step_count += 1
        if action.number == self.state.number:
            return Answer("right", done=True, reward=1.0)
        return Answer("higher" if action.number < self.state.number else "lower")


class FromManifest(ToolEnabledEnvironment):
    """The tools of the manifest that a variable names."""

    def __init__(self) -> None:
        super().__init__(os.environ["MANIFEST"])
