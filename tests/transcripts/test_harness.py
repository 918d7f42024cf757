"""The harness checked against itself: nothing recorded is lost, no change goes unseen."""

import copy
import os
import re
from pathlib import Path
from typing import Any, Iterator

import pytest
from harness.server import REPOSITORY
from transcripts.allow import ADDITION, DESIGN, FLAW, TEXT, AllowList, Entry, Recording, is_library_text
from transcripts.compare import ABSENT, Difference, Ids, compare, differences
from transcripts.parse import FOLDER, Exchange
from transcripts.replay import load

DOCUMENTS = Path(os.environ.get("OXENV_SHARED", REPOSITORY.parent / "shared"))
TRANSCRIPTS = ["openenv-0.10.0-http", "openenv-0.10.0-ws", "openenv-core-0.3.0-http", "openenv-core-0.3.0-ws"]


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of each scalar and each empty container."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    empty = True
    for key, member in members:
        empty = False
        yield from leaves(member, (*path, key))
    if empty and path:
        yield path


def change(document: Any, path: tuple) -> Any:
    """A copy with one leaf of another JSON type."""
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = "changed" if not isinstance(parent[path[-1]], str) else 17
    return changed


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_every_recorded_line_is_parsed(transcript):
    text = (FOLDER / f"{transcript}.txt").read_text()
    exchanges = load(transcript)
    if transcript.endswith("-http"):
        assert len(exchanges) == sum(line.startswith("### ") for line in text.splitlines())
    else:
        lines = text.splitlines()
        sent = sum(exchange.sent is not None for exchange in exchanges)
        assert sent == sum(line.startswith("> ") for line in lines)
        replies = sum("reply" in exchange.recorded for exchange in exchanges)
        assert replies == sum(line.startswith("< ") and not line.startswith("< !!") for line in lines)
        closes = sum("close" in exchange.recorded for exchange in exchanges)
        # The answer to `close` has a line of both kinds.
        assert closes == sum(line.startswith(("< !!", "close code 1000")) for line in lines) - 1


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_a_recording_equals_itself_and_no_change_goes_unseen(transcript):
    exchanges = load(transcript)
    assert differences(transcript, exchanges, [exchange.recorded for exchange in exchanges]) == []
    for exchange in exchanges:
        for path in leaves(exchange.recorded):
            assert compare(exchange, change(exchange.recorded, path), Ids()), (exchange.label, path)


def test_the_json_type_of_a_number_counts():
    recorded = Exchange("x", {"reward": 0.0, "done": False})
    assert compare(recorded, {"reward": 0, "done": False}, Ids()) == [("reward", 0.0, 0)]
    assert compare(recorded, {"reward": 0.0, "done": 0}, Ids()) == [("done", False, 0)]


def test_ids_are_compared_by_shape_and_must_stay_the_same():
    ids = Ids()
    assert not compare(Exchange("1", {"session_id": "a"}), {"session_id": "ours"}, ids)
    assert not compare(
        Exchange("2", {"message": "Unknown session_id: a"}), {"message": "Unknown session_id: ours"}, ids
    )
    assert compare(Exchange("3", {"session_id": "a"}), {"session_id": "another"}, ids)
    assert compare(Exchange("4", {"session_id": "b"}), {"session_id": None}, ids)


@pytest.mark.parametrize(
    ("path", "recorded", "got", "allowed"),
    [
        ("body.detail[0].msg", "Field required", "field is required", True),
        ("body.detail[0].url", "https://example.org", ABSENT, True),
        ("reply.data.message", "Invalid message", "invalid message", True),
        ("body.detail[0].type", "missing", "absent", False),
        ("body.detail[0].loc[1]", "seed", "sed", False),
        ("body.error.code", -32600, -32602, False),
        ("body.error.message", "text", None, False),
        ("body.error", {"code": 1}, "text", False),
    ],
)
def test_library_text_is_wording_only(path, recorded, got, allowed):
    assert is_library_text(Difference("t", 0, "x", path, recorded, got)) is allowed


def test_an_entry_that_matches_nothing_is_reported():
    stale = Entry(transcript="*", exchange="GET /gone", path="*", kind=TEXT, cite="x")
    recording = Recording("openenv-0.10.0-http", load("openenv-0.10.0-http"))
    verdict = AllowList([stale]).judge(recording, [exchange.recorded for exchange in recording.exchanges])
    assert verdict.unused == [stale] and not verdict.unexplained


@pytest.mark.parametrize("kind", ["http", "ws"])
def test_a_server_that_answers_as_0_10_0_differs_from_0_3_0_by_additions_only(kind):
    oldest, newest = (
        Recording(name, load(name)) for name in (f"openenv-core-0.3.0-{kind}", f"openenv-0.10.0-{kind}")
    )
    # What the recorder cut cannot stand for a live reply; the older recording has more of it.
    live = [
        (old if new.cut else new).recorded
        for old, new in zip(oldest.exchanges, newest.exchanges, strict=True)
    ]
    additions = AllowList([entry for entry in AllowList.load().entries if entry.kind == ADDITION])
    verdict = additions.judge(oldest, live, newest)
    assert not verdict.unexplained and not verdict.unused, str(verdict)


@pytest.mark.skipif(
    not DOCUMENTS.is_dir(),
    reason="the documents are not beside the checkout; OXENV_SHARED names their folder",
)
def test_citations_are_literal():
    """A citation is a passage of its document; one of an issue begins with its number."""
    wire, design = (
        " ".join((DOCUMENTS / name).read_text().split())
        for name in ("reference/openenv-wire.md", "design.md")
    )
    for entry in AllowList.load().entries:
        if entry.kind == FLAW:
            assert entry.cite in wire and "✗" in entry.cite, entry
        elif entry.kind == DESIGN:
            assert entry.cite in design or re.match(r"issue \d+: ", entry.cite), entry
        elif entry.kind == ADDITION:
            assert entry.cite in wire, entry
