"""examples/branching: eight forks, two lost connections, repeated requests, and the bytes of an undisturbed
run."""

import re
import subprocess
import sys

from harness.server import REPOSITORY, clean_environment

EXAMPLE = REPOSITORY / "examples" / "branching"


def test_the_branches_end_as_an_undisturbed_episode(serve):
    promised = re.search(r"```text\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S).group(1)
    # Whether the step that was on its way was taken is what nobody knows when a connection breaks.
    pattern = re.escape(promised).replace("at\\ number\\ N", "at\\ number\\ [34]")
    server = serve("connect4")
    for _ in range(5):
        command = [sys.executable, str(EXAMPLE / "demo.py"), server.url]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
        assert run.returncode == 0, run.stderr
        assert re.fullmatch(pattern, run.stdout), run.stdout
