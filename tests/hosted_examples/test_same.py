"""An example does the same behind the stock server, behind ours, and when its record is played again."""

import subprocess
from pathlib import Path

import pytest
from clients.stock import run
from harness.server import binary, running

from hosted_examples.conftest import EXAMPLES, IMPORT_TIMEOUT_S, VENV, serving
from hosted_examples.episodes import episode
from hosted_examples.plays import PLAYS

STOCK_SERVER = Path(__file__).with_name("stock_server.py")
MAX_STEPS = 60

every_example = pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.folder)


@every_example
def test_the_stock_server_gives_the_same_episode(example, play):
    command = [str(VENV / "bin" / "python"), str(STOCK_SERVER), play.folder]
    banner = rf"stock_server: serving {play.folder} on (http://127\.0\.0\.1:\d+)"
    environment = {"PYTHONPATH": str(EXAMPLES)}
    with running(command, banner, environment, start_timeout_s=IMPORT_TIMEOUT_S) as stock:
        expected = run(episode(stock.url, play, 7, MAX_STEPS))
    assert run(episode(example(play.folder).url, play, 7, MAX_STEPS)) == expected


@every_example
def test_a_record_without_a_seed_is_played_again(play, tmp_path):
    with serving(play.folder, "--record", str(tmp_path)) as server:
        run(episode(server.url, play, None, MAX_STEPS))
    command = [str(binary()), "replay", str(tmp_path), "--environment", str(EXAMPLES / play.folder)]
    done = subprocess.run(
        [*command, "--python", str(VENV)], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S
    )
    assert done.returncode == 0 and "1 of 1 the same" in done.stdout, done.stdout + done.stderr
