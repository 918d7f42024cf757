"""What cannot be served is told with what to do about it, before anything listens."""

import subprocess
import sys

import pytest
from harness.server import binary, running

from hosted.conftest import hosted_command


def refused(name, *flags):
    done = subprocess.run(hosted_command(name, *flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_a_missing_module_comes_with_the_command_that_installs_it():
    python = sys.executable
    hint = f"'absent_module' is not installed in {python}: run {python} -m pip install absent_module"
    assert hint in refused("missing:Environment")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kinds:Dicee", "module 'kinds' has no 'Dicee'; it has Dice"),
        ("nowhere.at.all:Environment", "No module named 'nowhere'"),
        ("kinds:GENERATOR", "is no environment"),
    ],
)
def test_a_wrong_name_is_told(name, says):
    assert says in refused(name)


def test_a_python_that_is_not_there_is_told():
    command = [str(binary()), "serve", "kinds:Dice", "--python", "/nowhere/python"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--python /nowhere/python: there is no Python" in done.stderr


@pytest.mark.parametrize("python", ["venv", "venv/bin/python", "./venv"])
def test_a_python_is_named_from_where_the_command_runs(tmp_path, python):
    (tmp_path / "venv").symlink_to(sys.prefix)
    command = hosted_command("counter_env")
    command[command.index("--python") + 1] = python
    banner = r"oxenv: serving counter_env on (http://127\.0\.0\.1:\d+)"
    with running(command, banner, cwd=tmp_path) as server:
        folder = python.removeprefix("./").removesuffix("/bin/python")
        assert f"{tmp_path}/{folder}/bin/python" in server.logged()
