"""An environment with the methods of OpenEnv's Task API, some of which fail."""

from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel


class Puzzle(BaseModel):
    seed: int
    name: str = "plain"


class Tasks(Environment[Action, Observation, State]):
    def reset(self, **_: Any) -> Observation:
        return Observation()

    def step(self, action: Action, **_: Any) -> Observation:
        return Observation()

    @property
    def state(self) -> State:
        return State()

    def of(self, split: str) -> list[Puzzle]:
        if split == "broken":
            raise ValueError("made to fail")
        return [Puzzle(seed=seed) for seed in range({"train": 5, "easy": 2}[split])]

    def list_splits(self) -> list[Any]:
        return ["train", "easy", {"name": "hard", "type": "test"}, 7]

    async def list_tasks(self, split: str) -> list[Any]:
        return self.of(split)[:3]

    def num_tasks(self, split: str) -> int:
        return len(self.of(split))

    def get_task(self, split: str, index: int) -> Any:
        return self.of(split)[index]

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[Any]:
        return self.of(split)[start:stop]


class Partly(Environment[Action, Observation, State]):
    """Has one of the methods; another says that it is not there."""

    reset, step, state = Tasks.reset, Tasks.step, Tasks.state

    def list_splits(self) -> list[Any]:
        raise NotImplementedError

    def num_tasks(self, split: str) -> int:
        return 12
