"""What is said to the agent in a grid, and what it sees."""

from typing import Literal

from openenv.core.env_server.types import Action, Observation, State


class Move(Action):
    move: Literal["left", "right", "forward", "pickup", "drop", "toggle", "done"]


class View(Observation):
    mission: str
    direction: Literal["right", "down", "left", "up"]
    # What is in the seven by seven cells before the agent, who stands in the middle of the last row: each
    # cell is its object, with its colour and its door's state where it has them.
    cells: list[list[str]]
    carrying: str | None = None
    truncated: bool = False


class GridState(State):
    task: str = ""
    # The whole grid as text, which the agent does not see.
    grid: str = ""
