"""The tools of `failing_tools.py`, served by the stock server: 0.2.3, 0.3.0 or 0.10.0, whichever is
installed.

Prints `echo_openenv: serving echo on http://127.0.0.1:PORT` first. `transcripts.record` records it.
"""

from echo_openenv import EchoEnvironment, serve
from failing_tools import failing_tools


class FailingEnvironment(EchoEnvironment):
    """Every action is a call of one of the tools."""

    def __init__(self) -> None:
        super().__init__(failing_tools())


if __name__ == "__main__":
    serve(FailingEnvironment)
