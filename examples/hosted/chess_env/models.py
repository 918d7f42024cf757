"""What is said to a chess game, and what the player sees of it."""

from openenv.core.env_server.types import Action, Observation, State


class Move(Action):
    """A move in UCI's spelling (e2e4, e7e8q) or in algebraic notation (e4, e8=Q)."""

    move: str


class Board(Observation):
    fen: str
    # Upper case is White; the eighth rank is the first line.
    board: str
    legal: list[str]
    # The opponent's answer, and at the end how the game ended: CHECKMATE, STALEMATE, …
    answer: str | None = None
    ended: str | None = None


class ChessState(State):
    moves: list[str] = []
