"""`python -m transcripts URL [TRANSCRIPT…]`, run in tests/: what differs, allowed or not.

The server at URL must be fresh: `oxenv serve echo --max-sessions 2`.
"""

import sys

from transcripts.allow import AllowList
from transcripts.compare import differences
from transcripts.replay import load, replay


def main(url: str, *transcripts: str) -> None:
    entries = AllowList.load().entries
    for transcript in transcripts or ("openenv-0.10.0-http", "openenv-0.10.0-ws"):
        for difference in differences(transcript, load(transcript), replay(url, transcript)):
            kinds = sorted({entry.kind for entry in entries if entry.covers(difference)})
            print(f"[{', '.join(kinds) or 'NOT ALLOWED'}] {difference}")


if __name__ == "__main__":
    main(*sys.argv[1:])
