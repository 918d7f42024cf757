"""One episode, branched into eight, over a connection that breaks: and every byte is as it would have been.

    oxenv serve connect4
    pip install websockets
    python demo.py http://127.0.0.1:8000

The protocol is oxenv.1: see docs/protocol.md. Requests carry a key, so one that is sent again is not done
again.
"""

import json
import socket
import sys
from inspect import signature

from websockets.sync.client import connect

MOVES = [3, 3, 2, 4, 1, 0, 5, 6, 2, 2]
BRANCH_AT = 3
FORKS = 8
# Newer versions of the library want to hear that a connection may outlive the block that it is made in.
PLAIN = {"legacy": True} if "legacy" in signature(connect).parameters else {}


class Line:
    """A connection to the server that can be lost, and taken up again."""

    def __init__(self, server: str):
        self.url = server.replace("http", "ws", 1) + "/ws"
        self.sent = 0
        self.connect()

    def connect(self) -> None:
        self.socket = connect(self.url, subprotocols=["oxenv.1"], **PLAIN)

    def lose(self) -> None:
        """The network goes away without a word."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def send(self, kind: str, **frame: object) -> int:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "type": kind, **frame}))
        return self.sent

    def receive(self, number: int) -> tuple[dict, str]:
        """The reply to that request, read and as its data's text."""
        while True:
            text = self.socket.recv(timeout=30)
            reply = json.loads(text)
            if reply.get("id") == number:
                break
        if reply["type"] == "error":
            raise RuntimeError(reply["data"])
        return reply, text[text.index('"data":') :]

    def ask(self, kind: str, **frame: object) -> tuple[dict, str]:
        return self.receive(self.send(kind, **frame))


def begin(line: Line) -> tuple[str, list[str]]:
    """A session that outlives its connection by a minute, and the beginning of its episode."""
    session = line.ask("open", data={"seed": 7, "resume_s": 60})[0]["session"]
    arguments = {"seed": 7, "episode_id": "branching", "opponent": "random"}
    return session, [line.ask("reset", session=session, key="reset", data=arguments)[1]]


def play(line: Line, session: str, first: int, last: int) -> list[str]:
    """Takes the moves from one number to another, each with a key of its own, until the game is over."""
    shown = []
    for number in range(first, last):
        reply, text = line.ask("step", session=session, key=f"step {number}", data={"column": MOVES[number]})
        shown.append(text)
        if reply["data"]["done"]:
            break
    return shown


def undisturbed(server: str) -> list[str]:
    line = Line(server)
    session, shown = begin(line)
    return shown + play(line, session, 0, len(MOVES)) + [line.ask("state", session=session)[1]]


def disturbed(server: str) -> list[list[str]]:
    line = Line(server)
    session, shown = begin(line)
    shown += play(line, session, 0, BRANCH_AT - 1)

    # The connection breaks while a step is on its way: was it taken? Whoever asks again is told.
    line.send("step", session=session, key="step 2", data={"column": MOVES[2]})
    line.lose()
    line.connect()
    seq = line.ask("attach", session=session)[0]["seq"]
    print(f"lost the connection; the session is at number {seq}")
    shown += play(line, session, BRANCH_AT - 1, BRANCH_AT)
    again = play(line, session, BRANCH_AT - 1, BRANCH_AT)
    print("the same request again gives the same bytes:", again == shown[-1:])

    reply = line.ask("fork", session=session, key="fork", data={"n": FORKS, "resume_s": 60})[0]
    names = [fork["session_id"] for fork in reply["data"]["sessions"]]
    print(f"{len(names)} forks at step {BRANCH_AT}")

    # And again, with all of them at work.
    for name in names:
        line.send("step", session=name, key=f"step {BRANCH_AT}", data={"column": MOVES[BRANCH_AT]})
    line.lose()
    line.connect()
    for name in [session, *names]:
        line.ask("attach", session=name)
    print("lost the connection once more, and took up", 1 + len(names), "sessions")

    endings = []
    for name in [session, *names]:
        ending = play(line, name, BRANCH_AT, len(MOVES)) + [line.ask("state", session=name)[1]]
        endings.append(shown + ending)
        line.ask("close", session=name)
    return endings


def main(server: str) -> None:
    plain = undisturbed(server)
    endings = disturbed(server)
    print(
        "episodes with the bytes of an undisturbed one:",
        sum(ending == plain for ending in endings),
        "of",
        len(endings),
    )
    print("steps in each:", len(plain) - 2)


if __name__ == "__main__":
    main(sys.argv[1])
