"""Text games of TextArena that need no data beside the package: the client speaks for all players."""

import random
from typing import Any

import textarena
from openenv.core.env_server.interfaces import Environment

from ..models import GameState, Say, Turn

# Each game and its players.
GAMES = {
    "ConnectFour-v0": 2,
    "GuessTheNumber-v0": 1,
    "IteratedPrisonersDilemma-v0": 2,
    "Mastermind-v0": 1,
    "Nim-v0": 2,
    "TicTacToe-v0": 2,
    "TowerOfHanoi-v0": 1,
}


class TextArena(Environment[Say, Turn, GameState]):
    def __init__(self) -> None:
        super().__init__()
        self.game: Any = None
        self._state = GameState()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, game: str = "TicTacToe-v0", **_: Any
    ) -> Turn:
        if game not in GAMES:
            raise ValueError(f"no game is called '{game}'; there are {', '.join(GAMES)}")
        seed = random.getrandbits(31) if seed is None else seed
        self.game = textarena.make(game)
        self.game.reset(num_players=GAMES[game], seed=seed)
        self._state = GameState(episode_id=episode_id, game=game, players=GAMES[game])
        player, text = self.game.get_observation()
        return Turn(player=player, text=text)

    def step(self, action: Say, timeout_s: float | None = None, **_: Any) -> Turn:
        if self.game is None:
            raise RuntimeError("no game is going on; reset the environment first")
        speaker, _ = self.game.get_observation()
        done, _ = self.game.step(action.text)
        self._state.step_count += 1
        if not done:
            player, text = self.game.get_observation()
            return Turn(player=player, text=text, reward=0.0)
        rewards, info = self.game.close()
        self.game = None
        reason = str(info[speaker].get("reason", ""))
        rewards = {int(player): float(reward) for player, reward in rewards.items()}
        reward = rewards[speaker]
        return Turn(player=speaker, text=reason, rewards=rewards, reason=reason, reward=reward, done=True)

    @property
    def state(self) -> GameState:
        return self._state
