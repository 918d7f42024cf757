"""An application whose modules import each other with and without the package, and with a factory."""

import functools

from openenv.core.env_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

try:
    from ..models import OldAction, OldObservation
except ImportError:
    from models import OldAction, OldObservation


class Old(Environment):
    def __init__(self, first: str) -> None:
        super().__init__()
        self.words = [first]

    def reset(self, **_):
        self.words = self.words[:1]
        return OldObservation(words=list(self.words))

    def step(self, action, timeout_s=None, **_):
        self.words.append(action.word)
        return OldObservation(words=list(self.words), reward=len(self.words))

    @property
    def state(self):
        return State(step_count=len(self.words) - 1)


app = create_fastapi_app(functools.partial(Old, "first"), OldAction, OldObservation)
