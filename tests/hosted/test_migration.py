"""The commands of docs/migration.md, run in the order of the page on the folder that it is about: the one
that `openenv init` makes. `oxenv build` itself is tested with a daemon, in tests/docker."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from clients.stock import newest_only
from harness.server import REPOSITORY, binary, clean_environment, running
from hosted.test_install import INSTALL_TIMEOUT_S, UV, make_wheel

PAGE = (REPOSITORY / "docs" / "migration.md").read_text()
SERVED_AT = r"oxenv: serving my_env on (http://127\.0\.0\.1:\d+)"


def printed() -> list[list[str]]:
    """The words of each command of the page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Those with which the folder's requirements are installed without a registry: `openenv` is a wheel that
    leads to the one that runs these tests."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (site,) = [path for path in sys.path if path.endswith("site-packages")]
    # The folder's requirements.txt names these, too.
    for name in ("openenv", "fastapi", "uvicorn"):
        make_wheel(wheels, name, files={f"{name}_of_the_tests.pth": f"{site}\n"})
    offline = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels)}
    path = f"{UV.parent}:{clean_environment()['PATH']}"
    return clean_environment() | offline | {"PATH": path}


def done(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=variables, timeout=INSTALL_TIMEOUT_S
    )
    assert ended.returncode == 0, (command, ended.stderr)
    return ended.stdout


@newest_only("the page shows the folder that the newest stock command makes")
def test_the_commands_of_the_page(tmp_path, variables):
    stock = [str(UV.with_name("openenv")), "init", "my_env"]
    done(stock, tmp_path, variables)
    install, serve, *others = printed()
    assert install == ["oxenv", "env", "install", "my_env"] and serve == ["oxenv", "serve", "my_env"]
    python = ["--python", sys.executable]
    told = done([str(binary()), *install[1:], *python], tmp_path, variables)
    assert "serve it: oxenv serve my_env" in told
    says = {
        "step": ["hello"],
        "check": ["holds", "contract"],
        "bench": ["p99", "errors    0"],
        "build": ['CMD ["serve","/app/my_env","--host","0.0.0.0","--open"]'],
    }
    with running([str(binary()), *serve[1:], "--port", "0"], SERVED_AT, cwd=tmp_path) as server:
        assert "my_env/.venv/bin/python" in server.logged()
        assert [words[1] for words in others] == list(says)
        for words in others:
            short = ["--duration", "1"] if words[1] == "bench" else []
            asked = [server.url if word == "http://127.0.0.1:8000" else word for word in words[1:]]
            told = done([str(binary()), *asked, *short], tmp_path, variables)
            assert all(part in told for part in says[words[1]]), (words, told)
