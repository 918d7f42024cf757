"""`/ready` says whether a session can be made."""

import json
import os
import time
import urllib.error
import urllib.request

import pytest
from harness.server import running

from hosted.conftest import hosted_command
from hosted.processes import command_of, descendants, wait_until

BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"
GOOD = """class Good:
    def reset(self):
        return {}

    def step(self, action):
        return {}
"""
BROKEN = "raise RuntimeError('made to fail')\n"


def ready(server):
    try:
        with urllib.request.urlopen(server.url + "/ready") as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def write(path, text):
    """Writes a module that Python sees as another one."""
    path.write_text(text)
    os.utime(path, (time.time() + 60 + len(text),) * 2)


def lose_processes(server):
    for pid in descendants(server.process.pid):
        if b"worker.py" in command_of(pid):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass


@pytest.mark.parametrize("spares", ["0", "2"])
def test_a_lost_environment_that_cannot_be_imported_again_is_not_ready(tmp_path, spares):
    module = tmp_path / "good.py"
    write(module, GOOD)
    command = hosted_command("good:Good", "--spares", spares)
    with running(command, BANNER, cwd=tmp_path) as server:
        assert ready(server)[0] == 200
        write(module, BROKEN)
        lose_processes(server)
        says = "no session can be made: the environment cannot be imported: RuntimeError: made to fail"

        def is_told():
            status, body = ready(server)
            problems = [each["message"] for each in body.get("problems", [])]
            return status == 503 and body["status"] == "unavailable" and problems == [says]

        wait_until(is_told, 120)
        write(module, GOOD)
        wait_until(lambda: ready(server)[0] == 200, 120)


def test_a_lost_environment_is_imported_again_for_the_probe_alone(tmp_path):
    write(tmp_path / "good.py", GOOD)
    with running(hosted_command("good:Good", "--spares", "0"), BANNER, cwd=tmp_path) as server:
        lose_processes(server)
        told = []

        def is_told():
            told[:] = ready(server)
            return told[0] == 503

        wait_until(is_told)
        assert told[1]["problems"][0]["message"].endswith("has ended; it is started again")
        wait_until(lambda: ready(server)[0] == 200, 120)
