"""Options as the native module reads them: of a session, and of what is to be started for one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._values import to_json


def session_options(
    *,
    connect_timeout_s: float = 10.0,
    message_timeout_s: float = 60.0,
    max_message_size_mb: float = 100.0,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    protocol: str = "auto",
    validate_arguments: bool = True,
    resume_s: float | None = None,
    queue_s: float | None = None,
    seed: int | None = None,
    episode_id: str | None = None,
) -> str:
    """The options as the native module reads them."""
    return to_json(
        {
            "protocol": protocol,
            "token": token,
            "headers": list((headers or {}).items()),
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": message_timeout_s,
            "max_message": int(max_message_size_mb * 1024 * 1024),
            "validate_arguments": validate_arguments,
            "seed": seed,
            "episode_id": episode_id,
            "resume_s": resume_s,
            "queue_s": queue_s,
        }
    )


@dataclass(frozen=True)
class Start:
    """Something to start, as the native module reads it. Its text has secrets, so it is not shown."""

    text: str = field(repr=False)


def docker(**given: Any) -> Start:
    """A container."""
    return _start(supervisor=None, **given)


def process(**given: Any) -> Start:
    """A process under a supervisor."""
    return _start(**given)


def _start(
    *,
    supervisor: os.PathLike[str] | None,
    image: str | None = None,
    workspace: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
    command: Sequence[str] = (),
    name: str | None = None,
    port: int | None = None,
    memory: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    mounts: Sequence[tuple[str | os.PathLike[str], str, bool]] = (),
    pull: str = "missing",
    privileged_root: bool = False,
    start_timeout_s: float = 30.0,
    stop_grace_s: float = 5.0,
    docker_host: str | None = None,
) -> Start:
    described = {
        "image": image,
        "command": [str(part) for part in command],
        "name": name,
        # A variable that is not set here is not set there.
        "env": [(key, value) for key, value in (env or {}).items() if value is not None],
        "workspace": None if workspace is None else os.path.abspath(workspace),
        "mounts": [(os.path.abspath(source), target, read_only) for source, target, read_only in mounts],
        "memory": memory,
        "cpus": cpus,
        "pids": pids,
        "port": port,
        "pull": pull,
        "privileged_root": privileged_root,
        "start_timeout_s": start_timeout_s,
        "stop_grace_s": stop_grace_s,
        "docker_host": docker_host,
        "supervisor": None if supervisor is None else os.fspath(supervisor),
    }
    return Start(to_json(described))
