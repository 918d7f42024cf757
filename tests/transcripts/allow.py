"""The allow-list: which differences from the recordings are wanted, and by what.

Entry points: `AllowList.load` and `judge`. An entry that matched nothing is an error, so
the list cannot rot; a `library text` never covers code, type or loc.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transcripts.compare import ABSENT, Difference, differences
from transcripts.parse import Exchange

FILE = Path(__file__).with_name("allowed.toml")
FLAW, DESIGN, ADDITION, TEXT = "flaw", "design", "0.10 addition", "library text"
# The last part of a path at which 'library text' may differ: wording and addresses.
TEXT_KEYS = ("message", "msg", "url", "description", "error", "expected")


@dataclass(frozen=True)
class Entry:
    """One allowed difference. In patterns `*` stands for any characters."""

    transcript: str
    exchange: str | tuple[str, ...]
    path: str | tuple[str, ...]
    kind: str
    cite: str
    got: str | None = None

    def applies_to(self, transcript: str) -> bool:
        return _matches(self.transcript, transcript)

    def covers(self, difference: Difference) -> bool:
        """Whether this entry names that difference."""
        return (
            self.applies_to(difference.transcript)
            and _matches(self.exchange, difference.exchange)
            and _matches(self.path, difference.path)
            and (self.got is None or _matches(self.got, shown(difference.got)))
            and (self.kind != TEXT or is_library_text(difference))
        )


@dataclass(frozen=True)
class Recording:
    """A transcript's name and its exchanges."""

    name: str
    exchanges: list[Exchange]


@dataclass(frozen=True)
class Verdict:
    """What the allow-list leaves; both lists must be empty."""

    unexplained: list[Difference]
    unused: list[Entry]

    def __str__(self) -> str:
        unused = (f"allow-list entry matched nothing: {entry}" for entry in self.unused)
        return "\n".join([*map(str, self.unexplained), *unused])


@dataclass(frozen=True)
class AllowList:
    """All entries of the file."""

    entries: list[Entry]

    @classmethod
    def load(cls, file: Path = FILE) -> "AllowList":
        tables = tomllib.loads(file.read_text())["allow"]
        entries = [
            Entry(**{
                name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
            })
            for table in tables
        ]
        for entry in entries:
            assert entry.kind in (FLAW, DESIGN, ADDITION, TEXT), f"unknown kind in {entry}"
            assert entry.cite.strip(), f"no citation in {entry}"
            assert entry.kind != ADDITION or entry.transcript.startswith("openenv-core-0."), entry
        return cls(entries)

    def judge(self, recording: Recording, live: list[Any], newest: Recording | None = None) -> Verdict:
        """Sort out one replay; `newest` is the 0.10.0 recording of the same requests."""
        added = self._additions(recording, live, newest) if newest else _Additions([], [])
        unexplained, used = [], set()
        for difference in differences(recording.name, recording.exchanges, live):
            covering = [
                entry
                for entry in self.entries
                if entry.covers(difference) and (entry.kind != ADDITION or difference in added)
            ]
            used.update(covering)
            if not covering:
                unexplained.append(difference)
        unused = [entry for entry in self.entries if entry.applies_to(recording.name) and entry not in used]
        return Verdict(unexplained, unused)

    def _additions(self, recording: Recording, live: list[Any], newest: Recording) -> "_Additions":
        """The differences that vanish when 0.10.0's own recording is the measure."""
        against_newest = differences(newest.name, newest.exchanges, live)
        return _Additions(
            changed=differences(
                recording.name, recording.exchanges, [one.recorded for one in newest.exchanges]
            ),
            still_open=[
                one for one in against_newest if not any(entry.covers(one) for entry in self.entries)
            ],
        )


@dataclass(frozen=True)
class _Additions:
    """Tells whether 0.10.0 changed what was recorded at a path, and we answer as it does."""

    changed: list[Difference]
    still_open: list[Difference]

    def __contains__(self, difference: Difference) -> bool:
        return _touched(difference, self.changed) and not _touched(difference, self.still_open)


def is_library_text(difference: Difference) -> bool:
    """Wording or an address, and nothing that a program would look at."""
    key = difference.path.rsplit(".", 1)[-1]
    recorded, got = difference.recorded, difference.got
    if key == "url" and ABSENT in (recorded, got):
        return True
    return key in TEXT_KEYS and isinstance(recorded, str) and isinstance(got, str)


def shown(value: Any) -> str:
    """A value as the `got` pattern of an entry sees it."""
    return "nothing" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def _touched(difference: Difference, others: list[Difference]) -> bool:
    """Whether another difference of the same exchange is at this path, above or below it."""
    return any(
        other.index == difference.index
        and (_within(other.path, difference.path) or _within(difference.path, other.path))
        for other in others
    )


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


def _matches(patterns: str | tuple[str, ...], text: str) -> bool:
    any_of = (patterns,) if isinstance(patterns, str) else patterns
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".*"), text, re.DOTALL) for one in any_of)
