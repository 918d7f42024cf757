"""`python -m oxenv` is the `oxenv` command."""

import os
import sys

from oxenv._binary import binary


def main() -> None:
    """Becomes the `oxenv` command, with this process's arguments."""
    path = str(binary())
    os.execv(path, [path, *sys.argv[1:]])


if __name__ == "__main__":
    main()
