"""A counter that writes a file into its working directory at each step."""

import os
from pathlib import Path

from counter_env.models import Add, CounterState, Total
from openenv.core.env_server.interfaces import Environment

Path("imported.txt").write_text("imported")


class Counter(Environment):
    def __init__(self) -> None:
        super().__init__()
        self._state = CounterState()

    def reset(self, seed=None, episode_id=None, start=0):
        self._state = CounterState(episode_id=episode_id, total=start)
        return Total(total=start, reward=0.0, metadata={"start": start, "files": sorted(os.listdir("."))})

    def step(self, action: Add, timeout_s=None):
        self._state.total += action.amount
        with open("steps.txt", "a", encoding="utf-8") as file:
            file.write(f"{action.amount}\n")
        written = len(Path("steps.txt").read_text().splitlines())
        done = self._state.total >= 10
        seen = {"total": self._state.total, "directory": os.getcwd(), "metadata": {"lines": written}}
        return Total(reward=1, done=done, **seen)

    @property
    def state(self):
        return self._state
