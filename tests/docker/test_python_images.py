"""Images of environments written in Python: those that `oxenv build` makes of a folder, and the one that the
Dockerfile of the tools RFC makes, with its own command and with `oxenv serve`."""

import json
import re
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from docker.containers import WITH_TMP, attempted, count, docker, inspected, running
from harness.plain_http import get, post
from harness.server import REPOSITORY, binary

RFC = REPOSITORY / "tests" / "tools" / "rfc" / "Dockerfile"
# Without the base classes, which cannot be fetched here: the class has what makes one.
CODE = '''import mcp
from pydantic import BaseModel


class Say(BaseModel):
    text: str


class Heard(BaseModel):
    text: str = ""
    reward: float | None = None
    done: bool = False


class Repeater:
    def reset(self) -> Heard:
        return Heard()

    def step(self, action: Say) -> Heard:
        return Heard(text=action.text, reward=1.0)
'''
IMAGES = ["repeater_env:latest", "oxenv-test/rfc:latest"]


@pytest.fixture(autouse=True)
def images_are_removed() -> Iterator[None]:
    yield
    attempted("rmi", "--force", *IMAGES)


def oxenv_build(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(binary()), "build", *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "Repeater_env"
    (place / "server").mkdir(parents=True)
    (place / "openenv.yaml").write_text("spec_version: 1\napp: server.app:Repeater\n")
    # The image that is built on has it: nothing can be fetched here.
    (place / "pyproject.toml").write_text('[project]\nname = "repeater"\ndependencies = ["mcp"]\n')
    (place / "server" / "app.py").write_text(CODE)
    return place


def says(url: str, text: str) -> dict:
    assert post(f"{url}/reset", {}, timeout_s=60.0).status == 200
    reply = post(f"{url}/step", {"action": {"text": text}}, timeout_s=60.0)
    assert reply.status == 200, reply.body
    return reply.json()


def test_a_folder_is_served_under_its_own_name(folder):
    built = oxenv_build(str(folder))
    assert built.returncode == 0, built.stderr
    assert built.stdout.startswith("repeater_env is sha256:")
    config = inspected("repeater_env:latest")["Config"]
    assert (config["User"], config["WorkingDir"]) == ("65532:65532", "/workspace")
    assert config["Cmd"] == ["serve", "/app/Repeater_env", "--host", "0.0.0.0", "--open"]
    with running("repeater_env:latest", *WITH_TMP) as container:
        assert "oxenv: serving Repeater_env on" in container.logged()
        assert get(f"{container.url}/health").json() == {"status": "healthy"}
        assert says(container.url, "hello")["observation"]["text"] == "hello"


def test_tools_of_the_folder_are_in_its_image(folder):
    tools = "tools:\n  - name: files\n    mcp_server:\n      command: npx\n      args:\n"
    (folder / "tools.yaml").write_text(
        tools + '        ["-y", "@modelcontextprotocol/server-filesystem", "/workspace"]\n'
    )
    built = oxenv_build(str(folder))
    assert built.returncode == 0, built.stderr
    with running("repeater_env:latest", *WITH_TMP) as container:
        offered = {tool["name"] for tool in get(f"{container.url}/tools", timeout_s=60.0).json()["tools"]}
        assert "read_text_file" in offered
        assert says(container.url, "hello")["reward"] == 1.0


def rfc_command() -> list[str]:
    return json.loads(re.search(r"^CMD (\[.*\])$", RFC.read_text(), re.M).group(1))


def test_the_dockerfile_of_the_rfc_as_it_is_printed():
    config = inspected("rfc-env:latest")["Config"]
    assert config["Cmd"] == rfc_command() and config["Entrypoint"] is None and config["User"] in ("0", "")
    look = "stat -c %a /workspace && nodejs --version && python3 -c 'import mcp'"
    assert docker("run", "--rm", "rfc-env:latest", "sh", "-c", look).splitlines()[0] == "777"
    with running("rfc-env:latest", banner="Uvicorn running on") as container:
        assert get(f"{container.url}/health").json() == {"status": "healthy"}
        seen = says(container.url, "hello")
    assert seen == {"observation": {"text": "hello", "count": 1}, "reward": 1.0, "done": False}


def documented_command() -> str:
    """The line that docs/migration.md gives for the RFC's last one."""
    page = (REPOSITORY / "docs" / "migration.md").read_text()
    (line,) = re.findall(r"^CMD \[\"oxenv\".*\]$", page, re.M)
    # The page shows both, the RFC's as it is printed.
    assert RFC.read_text().splitlines()[-1] in page
    return line


def test_its_last_line_may_become_oxenv_serve(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        f"FROM rfc-env:latest\nUSER 65532:65532\n{documented_command()}\n"
    )
    built = oxenv_build(str(tmp_path), "--tag", "oxenv-test/rfc:latest")
    assert built.returncode == 0, built.stderr
    with running("oxenv-test/rfc:latest") as container:
        assert "a forked process for each session" in container.logged()
        seen = says(container.url, "hello")
        assert (seen["observation"]["count"], seen["reward"]) == (1, 1.0)
        # Where the application of the time had one environment for all, each session has its own.
        sessions = [post(f"{container.url}/sessions", {}).json()["session_id"] for _ in range(2)]
        counts = [says(f"{container.url}/sessions/{each}", "hi")["observation"]["count"] for each in sessions]
        assert counts == [1, 1]
    assert count() == 0
