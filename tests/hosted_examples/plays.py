"""How each example is played by somebody who knows nothing but its observations."""

import random
import re
from dataclasses import dataclass, field
from typing import Any, Callable

Observation = dict[str, Any]


@dataclass(frozen=True)
class Play:
    """One environment, what its reset is given, and how the next action is drawn."""

    folder: str
    act: Callable[[Observation, random.Random], dict[str, Any]]
    reset: dict[str, Any] = field(default_factory=dict)
    # Whether no two episodes begin alike unless their seeds are equal.
    drawn: bool = False
    # An action that the environment refuses with an exception, and what it says.
    refused: tuple[dict[str, Any], str] | None = None


def press_a_number(seen: Observation, dice: random.Random) -> dict[str, Any]:
    buttons = re.findall(r"\[(\d+)\] button '\d+'", seen["tree"])
    return {"action": f"click('{dice.choice(buttons)}')"}


def mark_a_cell(seen: Observation, dice: random.Random) -> dict[str, Any]:
    free = re.findall(r"'\[(\d)\]'", seen["text"].rpartition("Available Moves:")[2])
    return {"text": f"I take [{dice.choice(free)}]"}


def push(seen: Observation, dice: random.Random) -> dict[str, Any]:
    return {"force": [dice.uniform(low, high) for low, high in zip(seen["low"], seen["high"])]}


def wander(seen: Observation, dice: random.Random) -> dict[str, Any]:
    return {"move": dice.choice(["left", "right", "forward", "forward", "pickup", "toggle"])}


PLAYS = [
    Play(
        "gymnasium_env",
        lambda seen, dice: {"action": dice.randrange(seen["actions"])},
        drawn=True,
        refused=({"action": 5}, r"5 is not in Discrete\(2\)"),
    ),
    Play(
        "atari_env",
        lambda seen, dice: {"button": dice.choice(seen["buttons"])},
        refused=({"button": "JUMP"}, "no button 'JUMP'; it has NOOP, FIRE"),
    ),
    Play(
        "open_spiel_env",
        lambda seen, dice: {"move": dice.choice(seen["legal"])},
        reset={"game": "leduc_poker"},
        refused=({"move": 77}, "the move 77 is not legal"),
    ),
    Play(
        "reasoning_gym_env",
        lambda seen, dice: {"answer": str(dice.randrange(100))},
    ),
    Play(
        "chess_env",
        lambda seen, dice: {"move": dice.choice(seen["legal"])},
        refused=({"move": "e2e5"}, "'e2e5' is not a legal move"),
    ),
    Play("minigrid_env", wander),
    Play("textarena_env", mark_a_cell),
    Play("dm_control_env", push, drawn=True, refused=({"force": [9.0]}, "1 numbers between low and high")),
    Play("browsergym_env", press_a_number, reset={"task": "find"}, drawn=True),
]
