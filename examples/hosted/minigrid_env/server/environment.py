"""Grid worlds of MiniGrid, as words."""

import random
from typing import Any

import gymnasium
import minigrid  # noqa: F401  (it registers the tasks)
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX
from openenv.core.env_server.interfaces import Environment

from ..models import GridState, Move, View

TASKS = sorted(name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-")))
DIRECTIONS = ("right", "down", "left", "up")
DOOR_STATES = {number: name for name, number in STATE_TO_IDX.items()}
WITHOUT_COLOUR = ("unseen", "empty", "wall", "floor", "goal", "lava", "agent")


def cell(kind: int, colour: int, state: int) -> str:
    """The words for one cell: `wall`, `yellow key`, `locked red door`."""
    name = IDX_TO_OBJECT[int(kind)]
    if name in WITHOUT_COLOUR:
        return name
    words = f"{IDX_TO_COLOR[int(colour)]} {name}"
    return f"{DOOR_STATES[int(state)]} {words}" if name == "door" else words


class MiniGrid(Environment[Move, View, GridState]):
    def __init__(self) -> None:
        super().__init__()
        self.env: gymnasium.Env | None = None
        self.ended = False
        self._state = GridState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        task: str = "MiniGrid-DoorKey-5x5-v0",
        **_: Any,
    ) -> View:
        if task not in TASKS:
            raise ValueError(f"no task is called '{task}'; there are {', '.join(TASKS)}")
        self.close()
        self.env = gymnasium.make(task)
        self.ended = False
        seen, _ = self.env.reset(seed=random.getrandbits(31) if seed is None else seed)
        self._state = GridState(episode_id=episode_id, task=task)
        return self.view(seen)

    def step(self, action: Move, timeout_s: float | None = None, **_: Any) -> View:
        if self.env is None or self.ended:
            raise RuntimeError("no episode is going on; reset the environment first")
        move = self.env.unwrapped.actions[action.move]
        seen, reward, terminated, truncated, _ = self.env.step(move)
        self._state.step_count += 1
        self.ended = terminated or truncated
        return self.view(seen, reward=float(reward), done=self.ended, truncated=truncated)

    def view(self, seen: dict[str, Any], **more: Any) -> View:
        held = self.env.unwrapped.carrying
        self._state.grid = self.env.unwrapped.pprint_grid()
        # The library's columns become rows.
        rows = seen["image"].transpose(1, 0, 2)
        return View(
            mission=seen["mission"],
            direction=DIRECTIONS[int(seen["direction"])],
            cells=[[cell(*each) for each in row] for row in rows],
            carrying=f"{held.color} {held.type}" if held else None,
            **more,
        )

    @property
    def state(self) -> GridState:
        return self._state

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
            self.env = None
