"""Environments whose sessions may be threads of one process."""

import os
import sys
import threading
import time
from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Do(Action):
    what: str = "nothing"


class Done(Observation):
    process: int = 0
    thread: int = 0
    steps: int = 0


class Together(Environment[Do, Done, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def seen(self, **more: Any) -> Done:
        here = threading.get_ident()
        return Done(process=os.getpid(), thread=here, steps=self._state.step_count, **more)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Done:
        self._state = State()
        return self.seen()

    def step(self, action: Do, timeout_s: float | None = None, **_: Any) -> Done:
        self._state.step_count += 1
        if action.what == "leave":
            sys.exit(3)
        if action.what == "end the process":
            os._exit(4)
        if action.what == "fail":
            raise ValueError("on purpose")
        if action.what == "sleep":
            time.sleep(3)
        return self.seen(reward=1.0)

    @property
    def state(self) -> State:
        return self._state


class Apart(Together):
    """Does not say that its sessions may be in one process."""

    SUPPORTS_CONCURRENT_SESSIONS = False
