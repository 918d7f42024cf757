"""`oxenv check` of environments written in Python."""

import json
import subprocess
import sys

import pytest
from harness.server import binary

from hosted.conftest import ENVIRONMENTS

CHECK_TIMEOUT_S = 180.0


def rules(name):
    """The outcome of each rule, by its name."""
    path = f"PYTHONPATH={ENVIRONMENTS}:{ENVIRONMENTS.parent.parent}"
    command = [str(binary()), "check", name, "--python", sys.executable, "--env", path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S)
    return {line["rule"]: line for line in json.loads(done.stdout)["rules"]}


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("equal_dice:EqualDice", "fails", "64 sessions without a seed all show the same, and 8 of 8 seeds"),
        ("equal_dice:Constant", "not_offered", "nothing in them seems to be random"),
        ("kinds:Dice", "holds", "number 2 is the first that differs"),
    ],
)
def test_sessions_without_a_seed_that_coincide_are_found(name, verdict, says):
    found = rules(name)
    assert found["unseeded"]["verdict"] == verdict and says in found["unseeded"]["detail"]
    assert found["replay"]["verdict"] == "holds"
