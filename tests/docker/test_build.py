"""`oxenv build`: a folder becomes an image that serves it, and a build that fails says where and leaves
nothing."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from docker.containers import WITH_TMP, attempted, count, docker, running
from harness.plain_http import get, post
from harness.server import binary
from tools.doors import stock
from tools.test_rfc import printed

TAG = "oxenv-test/built:latest"


@pytest.fixture(autouse=True)
def image_is_removed() -> Iterator[None]:
    yield
    attempted("rmi", "--force", TAG)


def oxenv_build(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [str(binary()), "build", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The RFC's manifest as an environment's folder, with what must not leave this machine beside it."""
    (tmp_path / "tools.yaml").write_text(printed("manifest"), encoding="utf-8")
    (tmp_path / ".env").write_text("GITHUB_TOKEN=hush-hush-hush")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("[remote]")
    (tmp_path / "big.log").write_text("noise")
    (tmp_path / ".dockerignore").write_text("*.log\n")
    return tmp_path


def test_a_folder_with_a_manifest(folder, tmp_path_factory):
    built = oxenv_build(str(folder), "--tag", TAG)
    assert built.returncode == 0, built.stderr
    assert built.stdout.startswith(f"{TAG} is sha256:")
    assert "Step 1/3 : FROM oxenv-tools:latest" in built.stderr
    assert "note: a container is to be given GITHUB_TOKEN" in built.stderr
    files = docker("run", "--rm", "--entrypoint", "find", TAG, "/app", "-printf", "%p %u %m\n").splitlines()
    assert files == ["/app root 755", "/app/tools.yaml root 644"]
    history = docker("history", "--no-trunc", TAG)
    assert str(folder) not in history and "hush" not in history
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "hello.txt").write_text("from the workspace")
    workspace.chmod(0o755)
    with running(TAG, *WITH_TMP, "--env", "GITHUB_TOKEN=a-token-of-nobody", user=workspace) as container:
        assert post(f"{container.url}/reset", {}, timeout_s=60.0).status == 200
        assert (
            "from the workspace"
            in stock(container.url, "read_text_file", {"path": "/workspace/hello.txt"}).text
        )


def test_what_is_printed_is_what_is_built(folder):
    shown = oxenv_build(str(folder), "--print")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[1:] == [
        "FROM oxenv-tools:latest",
        "COPY . /app",
        'CMD ["serve","/app","--host","0.0.0.0","--open"]',
    ]


def test_a_folder_with_a_build_file_of_its_own(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        'ARG WHICH\nFROM echo-env:latest\nCMD ["serve", "connect4", "--host", "0.0.0.0", "--open"]\n'
    )
    built = oxenv_build(str(tmp_path), "--tag", TAG, "--build-arg", "WHICH=any")
    assert built.returncode == 0, built.stderr
    with running(TAG) as container:
        assert get(f"{container.url}/metadata").json()["name"] == "Connect4Environment"


def test_a_build_file_that_needs_buildkit(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "Dockerfile").write_text(
        "ARG WHICH\nFROM oxenv-tools:latest\nARG WHICH\nUSER 0\nCOPY . /app/env\n"
        "RUN --mount=type=cache,target=/cache echo $WHICH > /cache/kept && cp /cache/kept /app/env/which\n"
    )
    (tmp_path / ".env").write_text("TOKEN=hush-hush-hush")
    (tmp_path / "app.py").write_text("")
    built = oxenv_build(str(tmp_path), "--tag", TAG, "--build-arg", "WHICH=any")
    assert built.returncode == 0, built.stderr
    assert built.stdout.startswith(f"{TAG} is sha256:")
    look = "cd /app/env; find . -type f | sort; cat which"
    seen = docker("run", "--rm", "--entrypoint", "sh", TAG, "-c", look).splitlines()
    # Without the file of secrets.
    assert seen == ["./app.py", "./server/Dockerfile", "./which", "any"]


def test_a_build_with_buildkit_that_fails_says_where(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        "FROM oxenv-tools:latest\nRUN --mount=type=cache,target=/cache echo so far so good && exit 3\n"
    )
    failed = oxenv_build(str(tmp_path), "--tag", TAG)
    assert failed.returncode == 1, failed.stderr
    error = failed.stderr[failed.stderr.index("error: cannot build") :]
    assert "exited with code 1; its last lines were:" in error and "so far so good" in error
    assert "exit code: 3" in error
    alone = oxenv_build(str(tmp_path), "--tag", TAG, env={"PATH": "/nowhere"})
    assert alone.returncode == 2 and "needs BuildKit" in alone.stderr


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("FROM oxenv-tools:latest\nRUN echo so far so good && exit 3\n", ["Step 2/2 : RUN echo", "code: 3"]),
        ("FROM oxenv:latest\nNONSENSE\n", ["unknown instruction: NONSENSE"]),
        ("FROM oxenv:latest\nCOPY nowhere /\n", ["Step 2/2 : COPY nowhere /"]),
    ],
)
def test_a_build_that_fails_says_where(tmp_path, file, named):
    (tmp_path / "Dockerfile").write_text(file)
    failed = oxenv_build(str(tmp_path), "--tag", TAG)
    assert failed.returncode == 1, failed.stderr
    error = failed.stderr[failed.stderr.index("error:") :]
    assert all(part in error for part in [f"cannot build {TAG}", *named]), error
    if "so far" in file:
        assert "its last lines were:" in error and "so far so good" in error
    assert count() == 0


def test_a_base_that_is_not_here(folder):
    failed = oxenv_build(str(folder), "--tag", TAG, "--base", "oxenv-nowhere:1")
    assert failed.returncode == 1
    assert "is there an image oxenv-nowhere:1?" in failed.stderr


def test_a_daemon_that_is_not_there(folder):
    failed = oxenv_build(str(folder), "--tag", TAG, env={"OXENV_DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert failed.returncode == 4, failed.stderr
    assert "/nowhere/docker.sock" in failed.stderr


def test_a_build_that_is_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM oxenv-tools:latest\nRUN echo begun && sleep 600\n")
    command = [str(binary()), "build", str(tmp_path), "--tag", TAG]
    events = [
        "docker",
        "events",
        "--filter",
        "event=destroy",
        "--filter",
        "type=container",
        "--format",
        "{{.ID}}",
    ]
    with subprocess.Popen(events, stdout=subprocess.PIPE, text=True) as destroyed:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as build:
            assert any("begun" in line and "RUN" not in line for line in build.stderr)
            build.send_signal(signal.SIGINT)
            build.wait(timeout=30)
        # The daemon notices that nobody listens, ends the step and removes its container.
        assert destroyed.stdout.readline().strip()
        destroyed.kill()
    assert count() == 0
    assert attempted("image", "inspect", TAG).returncode != 0
