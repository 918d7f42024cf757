"""What is said to a simulated body, and what it measures."""

from openenv.core.env_server.types import Action, Observation, State


class Force(Action):
    """One number for each actuator, between `low` and `high` of the observation."""

    force: list[float]


class Sensors(Observation):
    # Each sensor's numbers; a single number is a list of one.
    sensors: dict[str, list[float]]
    low: list[float]
    high: list[float]


class SuiteState(State):
    domain: str = ""
    task: str = ""
    # Seconds of simulated time.
    time: float = 0.0
