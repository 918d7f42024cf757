"""A simulated Fleet of the binary under test, and the simulator's own routes.

Entry point: `simulated(folder, *flags)`. The key is given by file, so that nothing but the first line is
read.
"""

import json
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from harness.server import binary, running

KEY = "sk_of_these_tests"
BANNER = r"# oxenv: simulating Fleet on (http://127\.0\.0\.1:\d+)"


@dataclass
class Simulated:
    """A Fleet that runs, and its key."""

    url: str
    key: str

    def requests(self, to: str = "") -> list[dict[str, Any]]:
        """What came, with `to` only that for one addressee: `control`, or an instance's id."""
        return [request for request in self._own("GET", "requests") if to in ("", request["to"])]

    def inject(self, *faults: str) -> None:
        self._own("POST", "faults", "\n".join(faults))

    def faults(self) -> list[str]:
        return self._own("GET", "faults")

    def expire(self, instance_id: str) -> None:
        self._own("POST", f"expire/{instance_id}")

    def advance(self, seconds: int) -> None:
        self._own("POST", f"advance/{seconds}")

    def _own(self, method: str, path: str, body: str = "") -> Any:
        request = urllib.request.Request(
            f"{self.url}/simulator/{path}",
            data=body.encode() if method == "POST" else None,
            headers={"Authorization": f"Bearer {self.key}"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as response:
            return json.load(response)


@contextmanager
def simulated(folder: Path, *flags: str) -> Iterator[Simulated]:
    """One that must end well after SIGTERM."""
    keys = folder / "keys"
    keys.write_text(f"team-1:{KEY}\n")
    command = [str(binary()), "fleet", "simulate", "--api-key-file", str(keys), *flags]
    with running(command, BANNER) as server:
        yield Simulated(server.url, KEY)
