"""Tells what it can reach."""

import os
import socket
from dataclasses import dataclass
from typing import Any

AT_IMPORT = [name for _, name in socket.if_nameindex()]
PORT = 4711


@dataclass
class Ask:
    port: int = 0


def reaches(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Network:
    def __init__(self) -> None:
        self.listening: Any = None

    def reset(self) -> dict[str, Any]:
        return {"at_import": AT_IMPORT, "interfaces": [name for _, name in socket.if_nameindex()]}

    def step(self, action: Ask) -> dict[str, Any]:
        if action.port:
            return {"reached": reaches(action.port), "pid": os.getpid()}
        # The same port in each session.
        self.listening = socket.create_server(("127.0.0.1", PORT))
        return {"reached": reaches(PORT), "pid": os.getpid()}
