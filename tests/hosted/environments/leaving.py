"""Leaves something behind in its process, as its actions say."""

import os
import random
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import Any

SEEN: list[str] = []
FOREVER = threading.Event()


@dataclass
class Leave:
    what: str = "nothing"


class Leaving:
    """Tells what earlier sessions of its process have left."""

    def __init__(self) -> None:
        self.bad_close = False

    def told(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "seen": list(SEEN),
            "roll": random.random(),
            "directory": os.getcwd(),
            "files": sorted(os.listdir()),
            "temporary": tempfile.mkdtemp(),
            "child": None,
        }

    def reset(self) -> dict[str, Any]:
        return self.told()

    def step(self, action: Leave) -> dict[str, Any]:
        told = self.told()
        what = action.what
        if what == "module":
            SEEN.append("module")
        elif what == "file":
            with open("left.txt", "w", encoding="ascii") as file:
                file.write("left")
        elif what == "output":
            print("a line of an earlier session")
        elif what == "child":
            told["child"] = subprocess.Popen(["sleep", "600"]).pid
        elif what == "thread":
            threading.Thread(target=FOREVER.wait, daemon=True).start()
        elif what == "bad_close":
            self.bad_close = True
        elif what == "crash":
            print("about to crash")
            os.abort()
        return told

    def close(self) -> None:
        SEEN.append("closed")
        if self.bad_close:
            raise RuntimeError("made to fail")
