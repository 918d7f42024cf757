"""An environment that keeps its state in every way that a process can, for forks of it."""

import asyncio
import mmap
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any

import numpy
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Do(Action):
    what: str = "nothing"


class Done(Observation):
    process: int = 0
    steps: int = 0
    notes: str = ""
    files: list[str] = []
    drawn: list[float] = []


class Forking(Environment[Do, Done, State]):
    def __init__(self) -> None:
        super().__init__()
        self._state = State()
        self.kept: list[Any] = []
        self.folder = tempfile.mkdtemp()
        self.notes = open(os.path.join(self.folder, "notes"), "w+", encoding="utf-8")
        self.loop = asyncio.new_event_loop()
        self.generator = numpy.random.default_rng()

    def seen(self) -> Done:
        self.notes.seek(0)
        drawn = [random.random(), numpy.random.random(), self.generator.random()]
        return Done(
            process=os.getpid(),
            steps=self._state.step_count,
            notes=self.notes.read(),
            files=sorted(os.listdir(self.folder)) + sorted(os.listdir()),
            drawn=drawn,
            reward=1.0,
        )

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Done:
        self._state = State()
        return self.seen()

    async def step_async(self, action: Do, timeout_s: float | None = None, **_: Any) -> Done:
        await asyncio.sleep(0.001)
        return self.step(action)

    def step(self, action: Do, timeout_s: float | None = None, **_: Any) -> Done:
        self._state.step_count += 1
        kind, _, rest = action.what.partition(" ")
        if kind == "note":
            self.notes.seek(0, os.SEEK_END)
            self.notes.write(rest + "\n")
        if kind == "file":
            with open(rest, "w", encoding="utf-8"):
                pass
        if kind == "start":
            self.kept.append(self.start(rest))
        if kind == "print":
            print(rest)
        if kind == "leave":
            os._exit(3)
        return self.seen()

    def start(self, what: str) -> Any:
        if what == "thread":
            thread = threading.Thread(target=threading.Event().wait, daemon=True)
            thread.start()
            return thread
        if what == "process":
            return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        if what == "socket":
            return socket.create_server(("127.0.0.1", 0))
        if what == "deleted":
            return tempfile.TemporaryFile()
        if what == "memory":
            return mmap.mmap(-1, 4096)
        raise ValueError(what)

    @property
    def state(self) -> State:
        return self._state

    def close(self) -> None:
        self.notes.close()


app = create_app(Forking, Do, Done, env_name="forking_env")
