"""The application of an example under uvicorn, as OpenEnv serves it: `stock_server.py FOLDER`.

Runs with the example's Python, and prints `stock_server: serving FOLDER on http://127.0.0.1:PORT` first.
"""

import importlib
import signal
import socket
import sys

import uvicorn


def main() -> None:
    folder = sys.argv[1]
    app = importlib.import_module(f"{folder}.server.app").app
    # uvicorn drains, then raises the signal again for the handler that was there before.
    signal.signal(signal.SIGTERM, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"stock_server: serving {folder} on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
