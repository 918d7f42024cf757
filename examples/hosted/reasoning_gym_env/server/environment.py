"""Tasks of reasoning-gym: one question an episode, made from its seed, with a score for the answer."""

import random
from typing import Any

import reasoning_gym
from openenv.core.env_server.interfaces import Environment
from reasoning_gym.factory import DATASETS

from ..models import Answer, Question, TaskState


class ReasoningGym(Environment[Answer, Question, TaskState]):
    def __init__(self) -> None:
        super().__init__()
        self.dataset: Any = None
        self.entry: dict[str, Any] | None = None
        self._state = TaskState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        task: str = "chain_sum",
        config: dict[str, Any] | None = None,
        **_: Any,
    ) -> Question:
        if task not in DATASETS:
            raise ValueError(f"no task is called '{task}'; there are {', '.join(sorted(DATASETS))}")
        seed = random.getrandbits(31) if seed is None else seed
        self.dataset = reasoning_gym.create_dataset(task, seed=seed, size=1, **(config or {}))
        self.entry = self.dataset[0]
        self._state = TaskState(episode_id=episode_id, task=task)
        return Question(task=task, question=self.entry["question"])

    def step(self, action: Answer, timeout_s: float | None = None, **_: Any) -> Question:
        if self.entry is None:
            raise RuntimeError("no question is open; reset the environment first")
        entry, self.entry = self.entry, None
        score = float(self.dataset.score_answer(action.answer, entry))
        self._state.step_count += 1
        expected = None if entry["answer"] is None else str(entry["answer"])
        return Question(
            task=self._state.task, question=entry["question"], expected=expected, reward=score, done=True
        )

    @property
    def state(self) -> TaskState:
        return self._state
