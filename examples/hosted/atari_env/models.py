"""What is said to an Atari 2600, and what it shows."""

from openenv.core.env_server.types import Action, Observation, State


class Press(Action):
    """A button of the joystick, by its name: NOOP, FIRE, LEFT, …"""

    button: str


class Frame(Observation):
    # The 128 bytes of the console's memory.
    ram: list[int]
    buttons: list[str]
    lives: int
    # Rows of grey pixels as base64, where the reset asked for them; `height` of `width` bytes each.
    screen: str | None = None
    height: int | None = None
    width: int | None = None


class AtariState(State):
    game: str = ""
    score: float = 0.0
