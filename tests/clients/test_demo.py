"""examples/echo_mcp_demo: what its README prints is what happens, with stock clients at both doors."""

import re
import subprocess
import sys

from clients.stock import newest_only
from harness.server import REPOSITORY, clean_environment

DEMO = REPOSITORY / "examples" / "echo_mcp_demo"


@newest_only("the demo is written for the newest client")
def test_the_demo_prints_what_its_readme_says(serve):
    promised = re.search(r"```text\n(.*?)```", (DEMO / "README.md").read_text(), re.S).group(1)
    command = [sys.executable, str(DEMO / "demo.py"), serve("echo").url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
    assert run.returncode == 0, run.stderr
    assert run.stdout == promised
