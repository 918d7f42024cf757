"""`oxenv env install`: a folder's requirements in its `.venv`, with uv and with pip. The package that is
installed is a wheel made here, so that no registry is asked."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness.server import binary, clean_environment, running

UV = Path(sys.executable).with_name("uv")
# Ours for the commands that the tests of both installers need, and no uv.
PLAIN_PATH = os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin"])
INSTALL_TIMEOUT_S = 120.0


def make_wheel(
    folder: Path, name: str, files: dict[str, str] | None = None, version: str = "1.0"
) -> None:
    """A wheel with these files; without any, with one module, which is called as the package."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in (files or {f"{name}.py": "SIDES = 6\n"}).items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "oxenv_test_dice")
    make_wheel(folder, "oxenv_test_coin")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment that needs a package of its pyproject.toml and one of its requirements.txt."""
    place = tmp_path / "dice env"
    (place / "server").mkdir(parents=True)
    (place / "openenv.yaml").write_text("name: dice_env\napp: server.app:Dice\n")
    project = '[project]\nname = "dice"\ndependencies = ["oxenv-test-dice==1.0"]\n'
    (place / "pyproject.toml").write_text(project)
    (place / "server/requirements.txt").write_text("oxenv-test-coin\n")
    # Without the base classes: the class has what makes one.
    (place / "server/app.py").write_text(
        "import oxenv_test_dice\n\n\nclass Dice:\n"
        "    def reset(self):\n        return {'sides': oxenv_test_dice.SIDES}\n\n"
        "    def step(self, action):\n        return {'reward': 1.0}\n"
    )
    return place


def variables(wheels: Path, uv: bool) -> dict[str, str]:
    path = f"{UV.parent}{os.pathsep}{PLAIN_PATH}" if uv else PLAIN_PATH
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "UV_OFFLINE": "1"}
    return clean_environment() | offline | {"UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "PATH": path}


def install(folder: Path, wheels: Path, *flags: str, uv: bool = False) -> subprocess.CompletedProcess:
    command = [str(binary()), "env", "install", str(folder), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, env=variables(wheels, uv)
    )


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_requirements_are_installed_once_and_kept(folder, wheels, uv):
    before = files(folder)
    first = install(folder, wheels, "--python", sys.executable, "--json", uv=uv)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["made"] and told["installer"] == ("uv" if uv else "pip")
    assert told["requirements"] == ["pyproject.toml", "server/requirements.txt"]
    assert told["folder"] == str(folder) and told["python"] == str(folder / ".venv/bin/python")
    ours = {name for name in told["packages"] if name.startswith("oxenv")}
    assert ours == {"oxenv_test_dice", "oxenv_test_coin"}
    assert told["version"] == ".".join(map(str, sys.version_info[:3]))
    # What runs, and what it says.
    assert "$ " in first.stderr and "oxenv-test-dice" in first.stderr.replace("_", "-")
    assert files(folder) == before | {".venv"}
    again = install(folder, wheels, "--json", uv=uv)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == told | {"made": False}


def test_what_is_missing_is_told_and_then_served(folder, wheels):
    serve = [str(binary()), "serve", str(folder), "--port", "0"]
    asked = subprocess.run([*serve, "--python", sys.executable], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 2
    hint = (
        f"'oxenv_test_dice' is not installed in {sys.executable}: pyproject.toml asks for "
        f"oxenv-test-dice==1.0; run oxenv env install '{folder}', and leave out --python"
    )
    assert asked.stderr.splitlines()[-1] == hint
    done = install(folder, wheels, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == f"serve it: oxenv serve '{folder}'"
    with running(serve, r"oxenv: serving dice_env on (http://127\.0\.0\.1:\d+)") as server:
        assert f"{folder}/.venv/bin/python" in server.logged()


def test_a_module_of_no_requirement_is_told(folder):
    (folder / "pyproject.toml").write_text('[project]\nname = "dice"\ndependencies = []\n')
    serve = [str(binary()), "serve", str(folder), "--port", "0", "--python", sys.executable]
    asked = subprocess.run(serve, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 2
    hint = (
        "no requirement in pyproject.toml and server/requirements.txt has its name; "
        f"add one if oxenv env install '{folder}' does not bring it, and leave out --python"
    )
    assert asked.stderr.splitlines()[-1].endswith(hint), asked.stderr


def test_uv_s_environment_is_completed_by_pip_and_a_broken_one_is_refused(folder, wheels):
    assert install(folder, wheels, "--python", sys.executable, uv=True).returncode == 0
    with_pip = install(folder, wheels, "--json")
    assert with_pip.returncode == 0, with_pip.stderr
    told = json.loads(with_pip.stdout)
    assert not told["made"] and told["installer"] == "pip" and "pip" in told["packages"]
    (folder / ".venv/bin/python").unlink()
    broken = install(folder, wheels)
    assert broken.returncode == 2
    assert f"{folder}/.venv is there, but " in broken.stderr and "remove it and repeat" in broken.stderr


def test_a_folder_without_requirements_says_what_was_looked_for(tmp_path, wheels):
    refused = install(tmp_path, wheels)
    assert refused.returncode == 2
    looked = "[project] of pyproject.toml, server/requirements.txt and requirements.txt"
    assert f"{tmp_path} lists no requirements; looked for {looked}" in refused.stderr
    nowhere = install(tmp_path / "nowhere", wheels)
    assert nowhere.returncode == 2 and "nowhere is no folder" in nowhere.stderr


@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_a_failure_has_the_installer_s_last_lines_and_its_code(folder, wheels, uv):
    (folder / "requirements.txt").write_text("oxenv-test-nowhere\n")
    failed = install(folder, wheels, "--python", sys.executable, uv=uv)
    assert failed.returncode == 1, failed.stderr
    error = failed.stderr[failed.stderr.index("error: the requirements") :]
    assert "exited with code 1; its last lines were:" in error and "-r requirements.txt" in error
    assert "oxenv-test-nowhere" in error.split("its last lines were:")[1]
    # What is corrected is installed by the same command.
    (folder / "requirements.txt").unlink()
    assert install(folder, wheels, uv=uv).returncode == 0


def test_another_python_than_the_one_that_is_there_is_refused(folder, wheels, tmp_path):
    other = tmp_path / "python"
    other.write_text(
        "#!/bin/sh\n"
        'echo \'{"version": "3.99.0", "base": "/other", "has_pip": true, "packages": {}}\'\n'
    )
    other.chmod(0o755)
    assert install(folder, wheels, "--python", sys.executable).returncode == 0
    refused = install(folder, wheels, "--python", str(other))
    assert refused.returncode == 2
    assert "not 3.99.0 of /other; remove it, or leave out --python" in refused.stderr


def test_without_a_name_it_is_the_python3_of_the_path(folder, wheels):
    done = install(folder, wheels, "--json", uv=True)
    assert done.returncode == 0, done.stderr
    ask = ["python3", "-c", "import platform; print(platform.python_version())"]
    known = subprocess.run(ask, capture_output=True, text=True, env=variables(wheels, uv=True), timeout=60)
    assert json.loads(done.stdout)["version"] == known.stdout.strip()


def uv_project(folder: Path, more: str = "") -> None:
    """Says that the folder needs any version of the dice."""
    project = '[project]\nname = "dice"\nversion = "0.1"\nrequires-python = ">=3.10"\n'
    (folder / "pyproject.toml").write_text(project + 'dependencies = ["oxenv-test-dice"]\n' + more)


def lock(folder: Path, wheels: Path) -> None:
    done = subprocess.run(
        [str(UV), "lock"], cwd=folder, env=variables(wheels, uv=True), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_the_versions_of_a_lock_are_uv_s_alone(folder, wheels, uv):
    uv_project(folder)
    lock(folder, wheels)
    locked, before = (folder / "uv.lock").read_text(), files(folder)
    make_wheel(wheels, "oxenv_test_dice", version="2.0")
    done = install(folder, wheels, "--python", sys.executable, "--json", uv=uv)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["locked"] is uv
    assert told["packages"]["oxenv_test_dice"] == ("1.0" if uv else "2.0")
    # The list of the folder's server is not in the lock.
    assert told["packages"]["oxenv_test_coin"] == "1.0" and "dice" not in told["packages"]
    assert ("note: pip does not follow uv.lock: " in done.stderr) is not uv
    assert (folder / "uv.lock").read_text() == locked and files(folder) == before | {".venv"}
    again = install(folder, wheels, "--json", uv=uv)
    assert json.loads(again.stdout) == told | {"made": False}


def test_a_lock_that_does_not_fit_the_project_is_refused(folder, wheels):
    uv_project(folder)
    lock(folder, wheels)
    locked = (folder / "uv.lock").read_text()
    uv_project(folder, "[project.optional-dependencies]\nmore = ['oxenv-test-coin']\n")
    refused = install(folder, wheels, "--python", sys.executable, uv=True)
    assert refused.returncode == 1 and "what uv.lock has cannot be installed" in refused.stderr
    assert "uv lock" in refused.stderr and (folder / "uv.lock").read_text() == locked


@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_sources_are_uv_s_alone(folder, wheels, uv):
    make_wheel(folder, "oxenv_test_dice", version="3.0")
    wheel = "oxenv_test_dice-3.0-py3-none-any.whl"
    uv_project(folder, f'[tool.uv.sources]\noxenv-test-dice = {{ path = "{wheel}" }}\n')
    done = install(folder, wheels, "--python", sys.executable, "--json", uv=uv)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["packages"]["oxenv_test_dice"] == ("3.0" if uv else "1.0") and not told["locked"]
    note = "note: pip does not follow [tool.uv.sources] of pyproject.toml: "
    assert (note in done.stderr) is not uv
    assert "uv.lock" not in files(folder)
