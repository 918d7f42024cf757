"""Repeats what is said, and counts."""

from core.env_server import create_app
from pydantic import BaseModel


class Say(BaseModel):
    text: str


class Heard(BaseModel):
    text: str = ""
    count: int = 0
    reward: float | None = None
    done: bool = False


class Repeater:
    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> Heard:
        self.count = 0
        return Heard()

    def step(self, action: Say) -> Heard:
        self.count += 1
        return Heard(text=action.text, count=self.count, reward=1.0)


app = create_app(Repeater, Say, Heard)
