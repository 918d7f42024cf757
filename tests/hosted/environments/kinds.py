"""Environments of the kinds that the reference's base classes allow."""

import asyncio
import enum
import random
import threading
from datetime import datetime, timezone
from typing import Any

import numpy
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel

# Made at import, as many modules do: every forked child has a copy of it.
GENERATOR = random.Random()


class Lazy:
    """Stands for a module that is imported when somebody asks for its class: nobody may."""

    @property
    def __class__(self):
        raise AssertionError("imported without need")


LAZY = Lazy()


class Roll(Action):
    sides: int = 6


class Rolled(Observation):
    rolls: list[float] = []


class Dice(Environment[Roll, Rolled, State]):
    """Rolls with every source of randomness that Python has."""

    def reset(self, **_: Any) -> Rolled:
        return Rolled(rolls=[random.random(), GENERATOR.random()])

    def step(self, action: Roll, timeout_s: float | None = None, **_: Any) -> Rolled:
        return Rolled(rolls=[random.random(), GENERATOR.random()])

    @property
    def state(self) -> State:
        return State()


class Waiting(Environment[Roll, Rolled, State]):
    """Has asynchronous methods, which go on in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lock: asyncio.Lock | None = None

    def reset(self, **_: Any) -> Rolled:
        raise AssertionError("the asynchronous method is there")

    async def reset_async(self, **_: Any) -> Rolled:
        self.lock = asyncio.Lock()
        return Rolled(rolls=[0.0])

    def step(self, action: Roll, timeout_s: float | None = None, **_: Any) -> Rolled:
        raise AssertionError("the asynchronous method is there")

    async def step_async(self, action: Roll, timeout_s: float | None = None, **_: Any) -> Rolled:
        async with self.lock:
            await asyncio.sleep(0)
        return Rolled(rolls=[float(action.sides)])

    @property
    def state(self) -> State:
        return State()


class Colour(enum.Enum):
    RED = "red"


class Cell(BaseModel):
    colour: Colour
    at: datetime


class Everything(Observation):
    model_config = Observation.model_config | {"extra": "allow"}

    cell: Cell
    number: float
    big: int
    text: str


class Shapes(Environment[Roll, Everything, State]):
    """Shows values that JSON has no word for."""

    REQUIRES_SINGLE_THREAD_EXECUTOR = True

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def seen(self) -> Everything:
        assert threading.get_ident() == self.thread
        cell = Cell(colour=Colour.RED, at=datetime(2026, 1, 2, tzinfo=timezone.utc))
        counts = {"array": numpy.arange(3), "count": numpy.int64(4)}
        return Everything(
            cell=cell, number=float("nan"), big=10**30, text="é☃", extra=(1, 2), reward=True, metadata=counts
        )

    def reset(self, **_: Any) -> Everything:
        return self.seen()

    def step(self, action: Roll, timeout_s: float | None = None, **_: Any) -> Everything:
        return self.seen()

    @property
    def state(self) -> State:
        return State(mood="fine")


class Keyed(Observation):
    board: dict[Any, Any] = {1: "a", "1": "b", 2.5: "c", None: "d", "None": "e", (1, 2): "f"}


class MixedKeys(Environment[Roll, Keyed, State]):
    """Shows a mapping whose keys JSON spells alike."""

    def reset(self, **_: Any) -> Keyed:
        return Keyed()

    def step(self, action: Roll, timeout_s: float | None = None, **_: Any) -> Keyed:
        return Keyed()

    @property
    def state(self) -> State:
        return State()


instance = Dice()


def make() -> Dice:
    return Dice()
