"""Atari 2600 games in the Arcade Learning Environment, whose package brings their cartridges."""

import base64
import random
from typing import Any

from ale_py import Action as Button
from ale_py import ALEInterface, LoggerMode, roms
from openenv.core.env_server.interfaces import Environment

from ..models import AtariState, Frame, Press

FRAMES_PER_STEP = 4
MAX_FRAMES = 108_000

ALEInterface.setLoggerMode(LoggerMode.Error)


class Atari(Environment[Press, Frame, AtariState]):
    def __init__(self) -> None:
        super().__init__()
        self.ale: ALEInterface | None = None
        self.buttons: dict[str, Button] = {}
        self.with_screen = False
        self._state = AtariState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        game: str = "breakout",
        screen: bool = False,
        **_: Any,
    ) -> Frame:
        games = roms.get_all_rom_ids()
        if game not in games:
            known = ", ".join(sorted(games))
            raise ValueError(f"no game is called '{game}'; there are {len(games)}: {known}")
        ale = ALEInterface()
        # The console has a seed of 31 bits.
        ale.setInt("random_seed", random.getrandbits(31) if seed is None else seed % 2**31)
        ale.setFloat("repeat_action_probability", 0.25)
        ale.setInt("max_num_frames_per_episode", MAX_FRAMES)
        ale.loadROM(roms.get_rom_path(game))
        ale.reset_game()
        self.ale, self.with_screen = ale, screen
        self.buttons = {button.name: button for button in ale.getMinimalActionSet()}
        self._state = AtariState(episode_id=episode_id, game=game)
        return self.frame()

    def step(self, action: Press, timeout_s: float | None = None, **_: Any) -> Frame:
        if self.ale is None or self.ale.game_over():
            raise RuntimeError("no episode is going on; reset the environment first")
        button = self.buttons.get(action.button)
        if button is None:
            raise ValueError(f"the game has no button '{action.button}'; it has {', '.join(self.buttons)}")
        reward = 0.0
        for _ in range(FRAMES_PER_STEP):
            reward += self.ale.act(button)
        self._state.step_count += 1
        self._state.score += reward
        return self.frame(reward)

    def frame(self, reward: float | None = None) -> Frame:
        shown = {}
        if self.with_screen:
            pixels = self.ale.getScreenGrayscale()
            text = base64.b64encode(pixels.tobytes()).decode()
            shown = {"screen": text, "height": pixels.shape[0], "width": pixels.shape[1]}
        return Frame(
            ram=self.ale.getRAM().tolist(),
            buttons=list(self.buttons),
            lives=self.ale.lives(),
            reward=reward,
            done=self.ale.game_over(),
            **shown,
        )

    @property
    def state(self) -> AtariState:
        return self._state
