"""server-everything over Streamable HTTP: a process of its own, as a remote upstream would be."""

import os
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from typing import Iterator

from harness import components


def free_port() -> int:
    """A port that was free a moment ago, for a server that cannot choose one itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def over_http(port: int | None = None) -> Iterator[str]:
    """Run it, wait until it listens, yield its URL, end it."""
    port = port or free_port()
    command = components.everything("streamableHttp").command_line
    # What it tells about each request goes to a file, because nobody would read a pipe.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=os.environ | {"PORT": str(port)},
        )
        try:
            first = process.stderr.readline().decode()
            assert f"listening on port {port}" in first, first
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
