"""An environment that does what no environment should, one action for each thing."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Do(Action):
    what: str


class Done(Observation):
    pid: int = 0
    children: list[int] = []


def overflow(depth: int = 0) -> int:
    return overflow(depth + 1) + 1


class Misbehaving(Environment[Do, Done, State]):
    def __init__(self) -> None:
        super().__init__()
        self.children: list[int] = []

    def reset(self, what: str | None = None, **_) -> Done:
        if what:
            getattr(self, what)()
        return self.seen()

    def seen(self, **more) -> Done:
        return Done(pid=os.getpid(), children=self.children, **more)

    def step(self, action: Do, timeout_s=None, **_) -> Done:
        getattr(self, action.what)()
        return self.seen(reward=1.0)

    def nothing(self) -> None:
        pass

    def exit(self) -> None:
        print("leaving on purpose")
        sys.exit(3)

    def exit_at_once(self) -> None:
        os._exit(4)

    def crash(self) -> None:
        print("about to crash", file=sys.stderr)
        ctypes.string_at(0)

    def hang(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        while True:
            time.sleep(1)

    def fork_into_our_code(self) -> None:
        os.fork()

    def ignore_children(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def raise_interrupt(self) -> None:
        raise KeyboardInterrupt("made to interrupt")

    def raise_error(self) -> None:
        raise ValueError("made to raise")

    def overflow(self) -> None:
        overflow()

    def speak(self) -> None:
        print("said to stdout")
        print("said to stderr \x1b[31m", file=sys.stderr)

    def speak_and_hang(self) -> None:
        self.speak()
        self.hang()

    def noise(self) -> None:
        print("x" * 300_000)
        os.write(1, b"\xff\xfe not text\n" * 100)
        os.write(2, b"\0" * 100_000)

    def close_output(self) -> None:
        os.close(1)
        os.close(2)

    def children_left(self) -> None:
        self.children.append(subprocess.Popen(["sleep", "600"]).pid)
        self.children.append(subprocess.Popen(["sleep", "601"], start_new_session=True).pid)

    def daemon_thread(self) -> None:
        threading.Thread(target=lambda: time.sleep(600), daemon=True).start()

    def thread(self) -> None:
        threading.Thread(target=lambda: time.sleep(600)).start()

    @property
    def state(self) -> State:
        return State()
