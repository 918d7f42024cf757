"""An environment in which a manifest's bare commands are found, and npx takes what is installed and asks
nobody."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from harness.components import NODE_FOLDER, node, venv_program

PROGRAMS = [("mcp-servers", "mcp-server-git"), ("mcp-server-sqlite", "mcp-server-sqlite")]


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """PATH, HOME and TMPDIR for the server under test.

    Workspaces are below target/node, because npx looks for packages in the folders above the one it runs in.
    """
    with tempfile.TemporaryDirectory(dir=NODE_FOLDER, prefix="tmp-") as folder:
        programs, home, temporary = (Path(folder) / name for name in ("bin", "home", "tmp"))
        for made in (programs, home, temporary):
            made.mkdir()
        (home / ".npmrc").write_text("offline=true\nupdate-notifier=false\n")
        for venv, program in PROGRAMS:
            # The program alone: its folder has a Python of its own.
            (programs / program).symlink_to(venv_program(venv, program))
        path = os.pathsep.join([str(programs), str(node().parent), os.environ["PATH"]])
        yield {"PATH": path, "HOME": str(home), "TMPDIR": str(temporary)}
