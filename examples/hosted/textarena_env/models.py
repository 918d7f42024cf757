"""What is said in a text game, and what is said back."""

from openenv.core.env_server.types import Action, Observation, State


class Say(Action):
    """What the player whose turn it is says; most games look for a move in square brackets."""

    text: str


class Turn(Observation):
    # Whose turn it is: the client speaks for all players.
    player: int
    text: str
    # At the end, what each player has won.
    rewards: dict[int, float] | None = None
    reason: str | None = None


class GameState(State):
    game: str = ""
    players: int = 0
