"""Clients for connect4 and grid_world, written as environment packages write them.

One has dataclasses, the other pydantic models that forbid extra fields: both styles
are in use, and the second breaks on any field that is not in the contract.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server.types import Action, Observation, State


@dataclass
class Connect4Action:
    column: int


@dataclass
class Connect4Observation:
    board: list[list[int]]
    legal_actions: list[int]
    done: bool = False
    reward: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Connect4State:
    episode_id: str
    step_count: int
    board: list[list[int]]
    next_player: int


class Connect4Env(EnvClient[Connect4Action, Connect4Observation, Connect4State]):
    """Reads each field by name, as the package of connect4 does."""

    def _step_payload(self, action: Connect4Action) -> dict[str, Any]:
        return {"column": action.column}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Connect4Observation]:
        fields = payload["observation"]
        observation = Connect4Observation(
            board=fields["board"],
            legal_actions=fields["legal_actions"],
            done=payload["done"],
            reward=payload["reward"],
            metadata=fields.get("metadata", {}),
        )
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> Connect4State:
        return Connect4State(**payload)


class Move(str, Enum):
    UP = "UP"
    DOWN = "DOWN"
    LEFT = "LEFT"
    RIGHT = "RIGHT"


class GridWorldAction(Action):
    action: Move


class GridWorldObservation(Observation):
    # Narrower than the base class, as in the package: null fails, at reset too.
    reward: float = 0.0
    x: int
    y: int
    message: str


class GridWorldEnv(EnvClient[GridWorldAction, GridWorldObservation, State]):
    """Gives all fields to a strict model, as the package of grid_world does."""

    def _step_payload(self, action: GridWorldAction) -> dict[str, Any]:
        return action.model_dump(mode="json")

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[GridWorldObservation]:
        observation = GridWorldObservation(
            **payload["observation"], reward=payload["reward"], done=payload["done"]
        )
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)
