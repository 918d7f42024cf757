"""A question, and its answer."""

from openenv.core.env_server.types import Action, Observation, State


class Answer(Action):
    answer: str


class Question(Observation):
    task: str
    question: str
    # The right answer, once the question was answered.
    expected: str | None = None


class TaskState(State):
    task: str = ""
