"""Containers of the daemon that `scripts/with-docker` started, by Docker's own command.

Entry point: `running(image, …)`; leaving its block removes the container, whatever became of it.
"""

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from harness.server import REPOSITORY

COMMAND_TIMEOUT_S = 60.0
IMAGES = REPOSITORY / "images"

# What a provider that trusts nobody gives a container: https://docs.docker.com/engine/security/.
CONFINED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
WITH_TMP = [*CONFINED, "--tmpfs", "/tmp"]


def docker(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S, env: dict[str, str] | None = None) -> str:
    """What the command wrote to standard output; a failure shows what it wrote to standard error."""
    done = attempted(*arguments, timeout_s=timeout_s, env=env)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout.strip()


def attempted(
    *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
    )


def inspected(name: str) -> dict[str, Any]:
    return json.loads(docker("inspect", name))[0]


def count() -> int:
    """How many containers there are, also ended ones."""
    return len(docker("ps", "-aq").splitlines())


@dataclass
class Container:
    """A container whose server listens, or has ended."""

    id: str

    @property
    def url(self) -> str:
        bound = inspected(self.id)["NetworkSettings"]["Ports"]["8000/tcp"][0]
        return f"http://127.0.0.1:{bound['HostPort']}"

    def logged(self) -> str:
        done = attempted("logs", self.id)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        return inspected(self.id)["State"]

    def wait_until_it_listens(self, banner: str) -> None:
        """Follows its log up to the line that says so."""
        with subprocess.Popen(
            ["docker", "logs", "--follow", self.id],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as log:
            listens = any(banner in line for line in log.stdout)
            log.kill()
        assert listens, self.logged()


@contextmanager
def running(
    image: str,
    *flags: str,
    command: tuple[str, ...] = (),
    user: Path | None = None,
    banner: str = "oxenv: serving",
) -> Iterator[Container]:
    """A container of `image` with a published port, which says `banner` when it listens; with `user`, as the
    owner of that folder, which is mounted."""
    mounted = []
    if user is not None:
        owner = user.stat()
        mounted = ["--user", f"{owner.st_uid}:{owner.st_gid}", "--volume", f"{user}:/workspace"]
    container = Container(
        docker("run", "--detach", "--publish", "127.0.0.1::8000", *mounted, *flags, image, *command)
    )
    try:
        container.wait_until_it_listens(banner)
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.id)
