"""Gymnasium's classic control: CartPole, Acrobot, MountainCar, Pendulum."""

import random
from typing import Any

import gymnasium
import numpy
from gymnasium.spaces import Discrete
from openenv.core.env_server.interfaces import Environment

from ..models import Control, ControlState, Reading

TASKS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")


class ClassicControl(Environment[Control, Reading, ControlState]):
    def __init__(self) -> None:
        super().__init__()
        self.env: gymnasium.Env | None = None
        self.ended = False
        self._state = ControlState()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, task: str = TASKS[0], **_: Any
    ) -> Reading:
        if task not in TASKS:
            raise ValueError(f"no task is called '{task}'; there are {', '.join(TASKS)}")
        self.close()
        self.env = gymnasium.make(task)
        self.ended = False
        values, _ = self.env.reset(seed=random.getrandbits(31) if seed is None else seed)
        self._state = ControlState(episode_id=episode_id, task=task)
        return self.reading(values)

    def step(self, action: Control, timeout_s: float | None = None, **_: Any) -> Reading:
        if self.env is None or self.ended:
            raise RuntimeError("no episode is going on; reset the environment first")
        space = self.env.action_space
        counted = isinstance(space, Discrete)
        given = action.action if counted else numpy.asarray(action.action, dtype=space.dtype)
        if not space.contains(given):
            raise ValueError(f"the action {action.action} is not in {space}")
        values, reward, terminated, truncated, _ = self.env.step(given)
        self._state.step_count += 1
        self.ended = terminated or truncated
        return self.reading(values, reward=float(reward), done=self.ended, truncated=truncated)

    def reading(self, values: numpy.ndarray, **more: Any) -> Reading:
        space = self.env.action_space
        if isinstance(space, Discrete):
            actions = {"actions": int(space.n)}
        else:
            actions = {"low": space.low.tolist(), "high": space.high.tolist()}
        return Reading(values=values.tolist(), **actions, **more)

    @property
    def state(self) -> ControlState:
        return self._state

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
            self.env = None
