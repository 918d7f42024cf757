"""What is said to the counter, and what it answers."""

from openenv.core.env_server.types import Action, Observation, State


class Add(Action):
    amount: int


class Total(Observation):
    total: int
    directory: str = ""


class CounterState(State):
    total: int = 0
