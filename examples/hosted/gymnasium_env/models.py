"""What is said to a control task, and what it answers."""

from openenv.core.env_server.types import Action, Observation, State


class Control(Action):
    """One action: a number where they are counted, numbers where they are forces."""

    action: int | list[float]


class Reading(Observation):
    values: list[float]
    # How many actions there are, or between which forces each number has to lie; one of the two is given.
    actions: int | None = None
    low: list[float] | None = None
    high: list[float] | None = None
    # Whether the episode ended because its steps were used up.
    truncated: bool = False


class ControlState(State):
    task: str = ""
