"""openenv 0.10.0 serving a plain typed environment: no tools, one pydantic action and one observation.

This is the least that openenv can be asked to do, so it is the stricter comparison of the two.
"""

import argparse
from typing import Any
from uuid import uuid4

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

MAX_SESSIONS = 512


class Message(Action):
    message: str


class Echoed(Observation):
    echoed_message: str = ""
    message_length: int = 0


class Typed(Environment[Message, Echoed, State]):
    """Echoes the message of the action in the observation."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(episode_id=str(uuid4()), step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Echoed:
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return Echoed(echoed_message="ready", done=False, reward=0.0)

    def step(self, action: Message, timeout_s: float | None = None, **kwargs: Any) -> Echoed:
        self._state.step_count += 1
        return Echoed(echoed_message=action.message, message_length=len(action.message), reward=None)

    @property
    def state(self) -> State:
        return self._state


class Page(Observation):
    text: str = ""
    cells: list[int] = []


class Pages(Environment[Message, Page, State]):
    """Observes about 100 KB: a text of 50 KB and a grid of numbers as long."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    TEXT = "<li>item</li>\n" * 3600
    CELLS = [number * 7919 % 1000 for number in range(12_800)]

    def __init__(self) -> None:
        super().__init__()
        self._state = State(episode_id=str(uuid4()), step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Page:
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return Page(text=self.TEXT, cells=self.CELLS, done=False, reward=0.0)

    def step(self, action: Message, timeout_s: float | None = None, **kwargs: Any) -> Page:
        self._state.step_count += 1
        return Page(text=self.TEXT, cells=self.CELLS, reward=None)

    @property
    def state(self) -> State:
        return self._state


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pages", action="store_true", help="serve the environment with large observations")
    given = parser.parse_args()
    served = (Pages, Message, Page) if given.pages else (Typed, Message, Echoed)
    app = create_app(*served, env_name="typed", max_concurrent_envs=MAX_SESSIONS)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")
