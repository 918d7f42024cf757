"""What is said to a game, and what the player sees of it."""

from openenv.core.env_server.types import Action, Observation, State


class Move(Action):
    """One of the legal moves, by its number."""

    move: int


class Position(Observation):
    # What this player may know of the game, as OpenSpiel writes it.
    text: str
    legal: list[int]
    # The legal moves as people write them, in the same order.
    names: list[str]


class GameState(State):
    game: str = ""
    history: list[int] = []
