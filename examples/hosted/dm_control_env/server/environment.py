"""Tasks of the DeepMind control suite, simulated by MuJoCo and not drawn."""

import os
import random
from typing import Any

# Drawing would need a display or a driver.
os.environ.setdefault("MUJOCO_GL", "disable")

import dm_env  # noqa: E402
import numpy  # noqa: E402
from dm_control import suite  # noqa: E402
from openenv.core.env_server.interfaces import Environment  # noqa: E402

from ..models import Force, Sensors, SuiteState  # noqa: E402


class ControlSuite(Environment[Force, Sensors, SuiteState]):
    def __init__(self) -> None:
        super().__init__()
        self.env: Any = None
        self.ended = False
        self._state = SuiteState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        domain: str = "cartpole",
        task: str = "swingup",
        **_: Any,
    ) -> Sensors:
        if (domain, task) not in suite.ALL_TASKS:
            there = ", ".join("/".join(each) for each in suite.ALL_TASKS)
            raise ValueError(f"no task is called '{domain}/{task}'; there are {there}")
        # The suite has a seed of 32 bits.
        seed = random.getrandbits(32) if seed is None else seed % 2**32
        self.env = suite.load(domain, task, task_kwargs={"random": seed})
        self._state = SuiteState(episode_id=episode_id, domain=domain, task=task)
        return self.sensors(self.env.reset())

    def step(self, action: Force, timeout_s: float | None = None, **_: Any) -> Sensors:
        if self.env is None or self.ended:
            raise RuntimeError("no episode is going on; reset the environment first")
        spec = self.env.action_spec()
        force = numpy.asarray(action.force)
        if force.shape != spec.shape or not ((spec.minimum <= force) & (force <= spec.maximum)).all():
            raise ValueError(f"a force is {spec.shape[0]} numbers between low and high, not {action.force}")
        self._state.step_count += 1
        return self.sensors(self.env.step(force))

    def sensors(self, step: dm_env.TimeStep) -> Sensors:
        spec = self.env.action_spec()
        self.ended = step.last()
        self._state.time = float(self.env.physics.time())
        return Sensors(
            sensors={name: numpy.ravel(values).tolist() for name, values in step.observation.items()},
            low=numpy.broadcast_to(spec.minimum, spec.shape).tolist(),
            high=numpy.broadcast_to(spec.maximum, spec.shape).tolist(),
            reward=None if step.reward is None else float(step.reward),
            done=self.ended,
        )

    @property
    def state(self) -> SuiteState:
        return self._state
