"""The `oxenv` binary that this package carries."""

from __future__ import annotations

import os
import sysconfig
from importlib import metadata
from pathlib import Path


def binary() -> Path:
    """The path of the `oxenv` binary: the one that ``OXENV_BIN`` names, else the one of this package.

    Raises:
        FileNotFoundError: The package was installed without it.
    """
    if chosen := os.environ.get("OXENV_BIN"):
        return Path(chosen)
    places = [Path(sysconfig.get_path("scripts")) / "oxenv"]
    try:
        files = metadata.files("oxenv") or []
    except metadata.PackageNotFoundError:
        files = []
    commands = [file for file in files if file.name == "oxenv" and file.parent.name == "bin"]
    places += [Path(str(file.locate())) for file in commands]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise FileNotFoundError(
        f"the oxenv binary is not at {places[0]}; install the wheel again, or name a binary with OXENV_BIN"
    )
