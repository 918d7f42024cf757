"""Dice that every new session rolls alike: their numbers are drawn at import, where no seed reaches them."""

import itertools
import random
from typing import Any

DRAWN = itertools.cycle([random.random() for _ in range(100)])


class EqualDice:
    """Rolls what was drawn, or with a generator of its own once a seed is given."""

    def __init__(self) -> None:
        self.next: Any = DRAWN.__next__

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        self.next = DRAWN.__next__ if seed is None else random.Random(seed).random
        return {"roll": self.next()}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"roll": self.next()}


class Constant(EqualDice):
    """Nothing of it is random."""

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        return {"roll": 4}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"roll": 4}
