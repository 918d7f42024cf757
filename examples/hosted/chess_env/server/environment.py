"""Chess by the rules of python-chess, against an opponent that moves at random."""

import random
from typing import Any

import chess
from openenv.core.env_server.interfaces import Environment

from ..models import Board, ChessState, Move


class Chess(Environment[Move, Board, ChessState]):
    def __init__(self) -> None:
        super().__init__()
        self.board: chess.Board | None = None
        self.colour = chess.WHITE
        self.dice = random.Random()
        self._state = ChessState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        fen: str = chess.STARTING_FEN,
        colour: str = "white",
        **_: Any,
    ) -> Board:
        if colour not in chess.COLOR_NAMES:
            raise ValueError(f"the colour is white or black, not '{colour}'")
        self.board = chess.Board(fen)
        self.colour = colour == "white"
        self.dice = random.Random(random.getrandbits(63) if seed is None else seed)
        self._state = ChessState(episode_id=episode_id)
        return self.seen(self.answer(), reward=None)

    def step(self, action: Move, timeout_s: float | None = None, **_: Any) -> Board:
        if self.board is None or self.board.is_game_over(claim_draw=True):
            raise RuntimeError("no game is going on; reset the environment first")
        self.push(self.parse(action.move))
        self._state.step_count += 1
        answer = self.answer()
        outcome = self.board.outcome(claim_draw=True)
        if outcome is None or outcome.winner is None:
            return self.seen(answer, reward=0.0)
        return self.seen(answer, reward=1.0 if outcome.winner == self.colour else -1.0)

    def parse(self, text: str) -> chess.Move:
        for parse in (self.board.parse_uci, self.board.parse_san):
            try:
                return parse(text)
            except ValueError:
                continue
        raise ValueError(f"'{text}' is not a legal move in {self.board.fen()}")

    def answer(self) -> str | None:
        """The opponent's move, where it is its turn and the game goes on."""
        if self.board.turn == self.colour or self.board.is_game_over(claim_draw=True):
            return None
        return self.push(self.dice.choice(list(self.board.legal_moves)))

    def push(self, move: chess.Move) -> str:
        self.board.push(move)
        self._state.moves.append(move.uci())
        return move.uci()

    def seen(self, answer: str | None, reward: float | None) -> Board:
        board = self.board
        outcome = board.outcome(claim_draw=True)
        legal = [] if outcome else [move.uci() for move in board.legal_moves]
        return Board(
            fen=board.fen(),
            board=str(board),
            legal=legal,
            answer=answer,
            ended=outcome.termination.name if outcome else None,
            reward=reward,
            done=outcome is not None,
        )

    @property
    def state(self) -> ChessState:
        return self._state
