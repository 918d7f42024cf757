"""Games of OpenSpiel: the client is one player, all others move at random."""

import random
from typing import Any

import pyspiel
from openenv.core.env_server.interfaces import Environment

from ..models import GameState, Move, Position

BOARDS = ("tic_tac_toe", "connect_four", "breakthrough", "2048")
GAMES = (*BOARDS, "kuhn_poker", "leduc_poker", "liars_dice", "blackjack")


class OpenSpiel(Environment[Move, Position, GameState]):
    def __init__(self) -> None:
        super().__init__()
        self.position: pyspiel.State | None = None
        self.player = 0
        self.dice = random.Random()
        self._state = GameState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        game: str = "tic_tac_toe",
        player: int = 0,
        **_: Any,
    ) -> Position:
        if game not in GAMES:
            raise ValueError(f"no game is called '{game}'; there are {', '.join(GAMES)}")
        loaded = pyspiel.load_game(game)
        if not 0 <= player < loaded.num_players():
            raise ValueError(f"{game} has the players 0 to {loaded.num_players() - 1}; there is no {player}")
        self.dice = random.Random(random.getrandbits(63) if seed is None else seed)
        self.position, self.player = loaded.new_initial_state(), player
        self._state = GameState(episode_id=episode_id, game=game)
        self.play_others()
        return self.seen(reward=None)

    def step(self, action: Move, timeout_s: float | None = None, **_: Any) -> Position:
        if self.position is None or self.position.is_terminal():
            raise RuntimeError("no game is going on; reset the environment first")
        legal = self.position.legal_actions()
        if action.move not in legal:
            raise ValueError(f"the move {action.move} is not legal; legal are {legal}")
        before = self.position.returns()[self.player]
        self.position.apply_action(action.move)
        self._state.step_count += 1
        self.play_others()
        return self.seen(reward=self.position.returns()[self.player] - before)

    def play_others(self) -> None:
        """Moves for chance and for the other players until it is the client's turn."""
        position = self.position
        while not position.is_terminal() and position.current_player() != self.player:
            if position.is_chance_node():
                moves, chances = zip(*position.chance_outcomes())
                position.apply_action(self.dice.choices(moves, chances)[0])
            else:
                position.apply_action(self.dice.choice(position.legal_actions()))

    def seen(self, reward: float | None) -> Position:
        position, done = self.position, self.position.is_terminal()
        legal = [] if done else position.legal_actions()
        names = [position.action_to_string(self.player, move) for move in legal]
        self._state.history = position.history()
        info = position.get_game().get_type()
        if info.provides_information_state_string:
            text = position.information_state_string(self.player)
        else:
            text = position.observation_string(self.player)
        return Position(text=text, legal=legal, names=names, reward=reward, done=done)

    @property
    def state(self) -> GameState:
        return self._state
