"""The tools RFC's block, with the images of this repository, on the daemon that OXENV_DOCKER_HOST names."""

import os
from pathlib import Path
from typing import Any

import pytest

import oxenv
from oxenv import CodingEnv, EchoEnv, UnifiedAction

HOST = os.environ.get("OXENV_DOCKER_HOST")

pytestmark = pytest.mark.skipif(
    HOST is None, reason="containers: OXENV_DOCKER_HOST names no daemon to start them with"
)


@pytest.fixture(autouse=True)
def daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", HOST or "")


def test_the_block_of_the_rfc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hello.txt").write_text("Hello from the host")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    # Starting container with workspace mount
    client = CodingEnv.from_docker_image(
        "coding-env:latest",
        workspace_dir=os.getcwd(),  # Mount current directory
        env_vars={"GITHUB_TOKEN": os.getenv("GITHUB_TOKEN")}
    )
    client.reset()
    reading = UnifiedAction("tool", tool_name="read_text_file", tool_args={"path": "/workspace/hello.txt"})
    assert "Hello from the host" in client.step(reading).observation.stdout
    client.close()
    assert (tmp_path / "hello.txt").read_text() == "Hello from the host"


def test_code_is_refused_while_there_is_no_engine(tmp_path: Path) -> None:
    with CodingEnv.from_docker_image("coding-env:latest", workspace_dir=tmp_path) as client:
        client.reset()
        with pytest.raises(oxenv.OxenvError):
            client.step(UnifiedAction("code", code="print(1)"))


def test_echo_in_a_container(tmp_path: Path) -> None:
    with EchoEnv.from_docker_image("echo-env:latest") as client:
        client.reset()
        assert client.echo_message("hello").observation.metadata["result"] == "hello"
        assert client.instance_url
        assert isinstance(client.logs(), str)


def test_an_image_that_is_not_there() -> None:
    with pytest.raises(oxenv.ImageNotFound):
        EchoEnv.from_docker_image("no-such-image-of-oxenv:latest", pull="never")


def test_within_a_loop_it_is_awaited() -> None:
    import asyncio

    async def main() -> Any:
        async with await EchoEnv.from_docker_image("echo-env:latest") as client:
            await client.reset()
            return (await client.echo_message("hello")).observation.metadata["result"]

    assert asyncio.run(main()) == "hello"
