"""An environment that keeps its state in every way that a process can, for forks of it."""

import asyncio
import mmap
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


# Made by the import, and so before any session.
LOOP = asyncio.new_event_loop()


class Do(Action):
    what: str = "nothing"


class Done(Observation):
    process: int = 0
    steps: int = 0
    notes: str = ""
    files: list[str] = []
    drawn: list[float] = []
    signals: int = 0
    output: str = ""


class Forking(Environment[Do, Done, State]):
    def __init__(self) -> None:
        super().__init__()
        self._state = State()
        self.kept: list[Any] = []
        self.folder = tempfile.mkdtemp()
        self.notes = open(os.path.join(self.folder, "notes"), "w+", encoding="utf-8")
        self.loop = asyncio.new_event_loop()
        self.generator = numpy.random.default_rng()
        self.signals = 0

    def seen(self) -> Done:
        self.notes.seek(0)
        drawn = [random.random(), numpy.random.random(), self.generator.random()]
        return Done(
            process=os.getpid(),
            steps=self._state.step_count,
            notes=self.notes.read(),
            files=sorted(os.listdir(self.folder)) + sorted(os.listdir()),
            drawn=drawn,
            signals=self.signals,
            output=self.output(),
            reward=1.0,
        )

    def output(self) -> str:
        if not os.path.exists("output.txt"):
            return ""
        with open("output.txt", encoding="utf-8") as file:
            return file.read()

    def count_signal(self) -> None:
        self.signals += 1

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Done:
        self._state = State()
        return self.seen()

    async def step_async(self, action: Do, timeout_s: float | None = None, **_: Any) -> Done:
        await asyncio.sleep(0.001)
        if action.what == "handle signals":
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.count_signal)
        if action.what == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
            while self.signals == 0:
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
        if kind == "redirect":
            sys.stdout = open("output.txt", "w", encoding="utf-8")
        if kind == "flush":
            sys.stdout.flush()
        if kind == "duplicate":
            self.kept = [os.open("output.txt", os.O_CREAT | os.O_RDWR)]
            self.kept.append(os.dup(self.kept[0]))
        if kind == "write":
            for descriptor in self.kept:
                os.write(descriptor, rest.encode())
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
        if what == "database":
            made = sqlite3.connect("kept.db")
            made.execute("create table kept (number)")
            made.commit()
            return made
        if what == "memory":
            return mmap.mmap(-1, 4096)
        raise ValueError(what)

    @property
    def state(self) -> State:
        return self._state

    def close(self) -> None:
        self.notes.close()


class Looping(Forking):
    """Waits for threads in the event loop that the import has made."""

    step_async = Environment.step_async

    def step(self, action: Do, timeout_s: float | None = None, **_: Any) -> Done:
        for _ in range(20):
            LOOP.run_until_complete(LOOP.run_in_executor(None, time.sleep, 0.005))
        return self.seen()


app = create_app(Forking, Do, Done, env_name="forking_env")
