"""Runs a Python module that may reach loopback only: `loopback_only.py MODULE [ARG…]`.

An attempt to go elsewhere fails, and is told on standard error in a line with BLOCKED.
"""

import ipaddress
import runpy
import sys


def is_loopback(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def guard(event: str, arguments: tuple) -> None:
    """An audit hook sees every connection and look-up, whatever library makes it."""
    host: object = None
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if not is_loopback(host):
        print(f"BLOCKED {event} {host}", file=sys.stderr, flush=True)
        raise PermissionError(f"only loopback may be reached here, not {host}")


if __name__ == "__main__":
    sys.addaudithook(guard)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
