"""Nothing is left: after a collection, an exit, a fork; and clients say so when they cannot be used."""

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import oxenv
from conftest import eventually, finished, program, sessions
from oxenv import GenericEnvClient, HTTPEnvClient

LEAVING = """
import sys
from oxenv import GenericEnvClient, HTTPEnvClient
clients = [kind(base_url=sys.argv[1]) for kind in (GenericEnvClient, HTTPEnvClient, HTTPEnvClient)]
for client in clients:
    client.reset()
if sys.argv[2] == "error":
    raise RuntimeError("as it happens")
"""


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
def test_a_client_that_is_collected_ends_its_session(serve: Any, kind: type[GenericEnvClient]) -> None:
    url = serve("echo").url
    env = kind(base_url=url)
    env.reset()
    assert len(sessions(url)) == 1
    del env
    gc.collect()
    eventually(lambda: not sessions(url))


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1)])
def test_a_process_that_ends_leaves_no_session(serve: Any, how: str, code: int) -> None:
    url = serve("echo", "--max-sessions", "3").url
    finished(program(LEAVING, url, how), code)
    eventually(lambda: not sessions(url))


SERVING = """
import json, os, sys
from oxenv import GenericEnvClient
env = GenericEnvClient.serve("echo", workspace_dir=os.getcwd())
env.reset()
print(json.dumps([env.instance_url, env.instance_name]), flush=True)
if sys.argv[1] == "close":
    env.close()
"""


@pytest.mark.parametrize("how", ["close", "leave"])
def test_what_was_served_for_a_client_ends_with_it(how: str) -> None:
    out = finished(program(SERVING, how))
    url, name = json.loads(out)
    assert name
    eventually(lambda: not listens(url))


def test_a_failed_start_is_told_with_the_last_lines() -> None:
    with pytest.raises(oxenv.InstanceExited) as failed:
        GenericEnvClient.serve("no-such-environment")
    assert "no-such-environment" in str(failed.value)
    assert isinstance(failed.value, oxenv.ProviderFailure)


def in_a_child(url: str, answers: Any, parents: GenericEnvClient) -> None:
    try:
        parents.step({"action": "UP"})
    except oxenv.OxenvError as error:
        answers.put((error.code, error.delivered))
    with GenericEnvClient(base_url=url) as env:
        env.reset()
        answers.put(env.step({"action": "DOWN"}).observation["x"])
    del parents
    gc.collect()
    answers.put("done")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_clients_of_its_own_and_spares_its_parents(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "2").url
    with GenericEnvClient(base_url=url) as env:
        env.reset()
        forking = multiprocessing.get_context("fork")
        answers = forking.Queue()
        child = forking.Process(target=in_a_child, args=(url, answers, env))
        child.start()
        assert answers.get(timeout=60) == ("CLOSED", "no")
        assert answers.get(timeout=60) == 1
        assert answers.get(timeout=60) == "done"
        child.join(60)
        assert child.exitcode == 0
        assert env.step({"action": "DOWN"}).observation["x"] == 1


def listens(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health").close()
    except urllib.error.URLError:
        return False
    return True


def test_the_binary_is_carried_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OXENV_BIN")
    command = [sys.executable, "-m", "oxenv", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert said.stdout.split() == ["oxenv", oxenv.__version__]
    assert os.access(oxenv.binary(), os.X_OK)
