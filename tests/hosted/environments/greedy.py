"""An environment that takes what it can get, one action for each thing."""

import os
import subprocess
import sys
import threading
import time

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

MIB = 1 << 20


class Do(Action):
    what: str


class Done(Observation):
    pid: int = 0
    children: int = 0
    refused: str = ""


class Greedy(Environment[Do, Done, State]):
    def __init__(self) -> None:
        super().__init__()
        self.children: list[subprocess.Popen] = []
        self.refused = ""

    def reset(self, **_) -> Done:
        return self.seen()

    def seen(self, **more) -> Done:
        return Done(pid=os.getpid(), children=len(self.children), refused=self.refused, **more)

    def step(self, action: Do, timeout_s=None, **_) -> Done:
        getattr(self, action.what)()
        return self.seen(reward=1.0)

    def nothing(self) -> None:
        pass

    def all_memory(self) -> None:
        print("about to fill the memory", file=sys.stderr)
        filled = []
        while True:
            filled.append(b"x" * MIB)

    def all_time(self) -> None:
        print("about to use the CPU")
        while True:
            pass

    def fork_bomb(self) -> None:
        try:
            while True:
                self.children.append(subprocess.Popen(["sleep", "600"]))
        except OSError as error:
            self.refused = str(error)

    def threads(self) -> None:
        try:
            while True:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        except RuntimeError as error:
            self.refused = str(error)

    @property
    def state(self) -> State:
        return State()
