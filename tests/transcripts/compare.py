"""Walks a recorded and a live JSON value and lists every difference.

Numbers differ when their JSON type differs, so `0` is not `0.0`. Ids are compared by
shape, and by identity from then on: what was one id in the recording must stay one.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from transcripts.parse import Exchange

ID_KEYS = ("session_id", "episode_id")


class _Absent:
    """Stands where one side has no value."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """One path at which the live server did not answer as recorded."""

    transcript: str
    index: int
    exchange: str
    path: str
    recorded: Any
    got: Any

    def __str__(self) -> str:
        place = f"{self.transcript}:{self.exchange}:{self.path}"
        return f"{place}: recorded {_short(self.recorded)}, got {_short(self.got)}"


@dataclass
class Ids:
    """Which live id stands for which recorded one."""

    live: dict[str, str] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        for recorded, live in self.live.items():
            text = text.replace(recorded, live)
        return text

    def same(self, recorded: str, got: Any) -> bool:
        """Whether `got` may stand for `recorded`; from now on it does."""
        if not isinstance(got, str) or not got:
            return False
        return self.live.setdefault(recorded, got) == got


def differences(transcript: str, exchanges: list[Exchange], live: list[Any]) -> list[Difference]:
    """Compare the live documents of one replay with a recording of the same requests."""
    assert len(exchanges) == len(live), f"{len(exchanges)} exchanges recorded, {len(live)} live"
    ids, found = Ids(), []
    for index, (exchange, document) in enumerate(zip(exchanges, live)):
        for path, recorded, got in compare(exchange, document, ids):
            found.append(Difference(transcript, index, exchange.label, path, recorded, got))
    return found


def compare(exchange: Exchange, live: Any, ids: Ids) -> list[tuple[str, Any, Any]]:
    """The paths at which one live document differs, with both values."""
    walk = _Walk(ids)
    (walk.part if exchange.cut else walk.value)("", exchange.recorded, live)
    return walk.found


class _Walk:
    """Collects what differs between two JSON values."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.found: list[tuple[str, Any, Any]] = []

    def value(self, path: str, recorded: Any, got: Any) -> None:
        if isinstance(recorded, dict) and isinstance(got, dict):
            for key in [*recorded, *(key for key in got if key not in recorded)]:
                self._member(
                    f"{path}.{key}" if path else key, key, recorded.get(key, ABSENT), got.get(key, ABSENT)
                )
        elif isinstance(recorded, list) and isinstance(got, list):
            for index in range(max(len(recorded), len(got))):
                self.value(f"{path}[{index}]", _item(recorded, index), _item(got, index))
        elif isinstance(recorded, str) and isinstance(got, str):
            if self.ids.translate(recorded) != got:
                self.found.append((path, recorded, got))
        elif type(recorded) is not type(got) or recorded != got:
            self.found.append((path, recorded, got))

    def _member(self, path: str, key: str, recorded: Any, got: Any) -> None:
        if key in ID_KEYS and isinstance(recorded, str) and got is not ABSENT:
            if not self.ids.same(recorded, got):
                self.found.append((path, recorded, got))
        else:
            self.value(path, recorded, got)

    def part(self, path: str, part: Any, got: Any) -> None:
        """Compare what a cut recording holds; the live value may hold more."""
        if isinstance(part, dict) and isinstance(got, dict):
            for key, member in part.items():
                self.part(f"{path}.{key}" if path else key, member, got.get(key, ABSENT))
        elif isinstance(part, list) and isinstance(got, list):
            for index, item in enumerate(part):
                self.part(f"{path}[{index}]", item, _item(got, index))
        else:
            self.value(path, part, got)


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else ABSENT


def _short(value: Any) -> str:
    text = repr(value) if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
