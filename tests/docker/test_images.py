"""The images themselves: what is in them, how they start, say that they are well, and end."""

import io
import json
import os
import subprocess
import tarfile
import time

import pytest
from docker.containers import CONFINED, WITH_TMP, attempted, docker, inspected, running
from harness.plain_http import get, post

ALL = ["oxenv", "oxenv-tools", "echo-env", "coding-env"]
# Compose and clients give a container 10 s; it promises half of that.
STOP_S = 5.0


def echo(url: str, message: str) -> str:
    action = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": message}}
    reply = post(f"{url}/step", {"action": action}, timeout_s=60.0)
    assert reply.status == 200, reply.body
    return reply.json()["observation"]["result"]["data"]


@pytest.mark.parametrize("image", ALL)
def test_what_an_image_says_of_itself(image):
    config = inspected(f"{image}:latest")["Config"]
    assert config["User"] == "65532:65532"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Entrypoint"] == ["/usr/local/bin/oxenv"]
    assert config["Cmd"][0] == "serve" and config["Cmd"][-3:] == ["--host", "0.0.0.0", "--open"]
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/oxenv", "health"]
    assert config["WorkingDir"] == "/workspace"
    assert config["Volumes"] is None


def test_the_command_s_image_holds_nothing_else():
    container = docker("create", "oxenv:latest")
    try:
        archive = subprocess.run(
            ["docker", "export", container], capture_output=True, check=True, timeout=60
        ).stdout
    finally:
        docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        entries = {entry.name.rstrip("/"): entry for entry in files}
        # Docker itself adds mount points: hosts, resolv.conf and devices, all empty.
        held = {name for name, entry in entries.items() if entry.isfile() and entry.size}
        binaries = {"usr/local/bin/oxenv", "usr/local/bin/oxenv-monty"}
        assert held == {*binaries, "etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt"}
        assert b"BEGIN CERTIFICATE" in files.extractfile("etc/ssl/certs/ca-certificates.crt").read()
        assert entries["workspace"].mode & 0o7777 == entries["tmp"].mode & 0o7777 == 0o1777


@pytest.mark.parametrize("image", [*ALL, "envtorch-base"])
def test_no_setting_of_this_machine_is_in_an_image(image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", f"{image}:latest")
    environment = " ".join(inspected(f"{image}:latest")["Config"]["Env"])
    for told in (history, environment):
        assert "registry=" not in told and "PIP_INDEX_URL" not in told and "://" not in told, told
    if image not in ("oxenv", "echo-env"):
        places = ["/tmp", "/root", "/usr/local/etc/npmrc", "/run/secrets"]
        command = f"find {' '.join(places)} -type f 2>/dev/null; cat /usr/local/etc/npmrc"
        left = docker(
            "run", "--rm", "--user", "0", "--entrypoint", "sh", f"{image}:latest", "-c", command
        ).splitlines()
        shell = {"/root/.bashrc", "/root/.profile"}
        assert set(left) - shell == {"/usr/local/etc/npmrc", "update-notifier=false", "logs-max=0"}


@pytest.mark.parametrize("image", ALL)
def test_it_listens_without_a_command_and_ends_in_time(image):
    with running(f"{image}:latest") as container:
        assert get(f"{container.url}/health").json() == {"status": "healthy"}
        assert echo(container.url, "hello") == "hello"
        # It is the first process of its container, which gets no signal that it does not handle.
        assert not inspected(container.id)["HostConfig"].get("Init")
        begun = time.monotonic()
        docker("stop", "--time", "30", container.id)
        assert time.monotonic() - begun < STOP_S
        assert container.state()["ExitCode"] == 0, container.logged()


@pytest.mark.parametrize("image", ["echo-env", "coding-env"])
def test_it_says_that_it_is_healthy(image):
    with running(f"{image}:latest", "--health-interval", "1s") as container:
        since = ["--since", str(int(time.time()) - 600), "--filter", f"container={container.id}"]
        events = ["docker", "events", *since, "--filter", "event=health_status", "--format", "{{.Action}}"]
        with subprocess.Popen(events, stdout=subprocess.PIPE, text=True) as told:
            first = told.stdout.readline().strip()
            told.kill()
        assert first == "health_status: healthy"
        assert container.state()["Health"]["Log"][-1]["Output"].strip() == "healthy"


def test_health_tells_what_is_wrong():
    with running("echo-env:latest", "--env", "OXENV_PORT=8100", "--publish", "127.0.0.1::8100") as container:
        # The check follows the port that the server was given.
        assert docker("exec", container.id, "oxenv", "health") == "healthy"
        nobody = attempted("exec", container.id, "oxenv", "health", "http://127.0.0.1:9")
        assert nobody.returncode == 4 and "cannot connect" in nobody.stderr
        wrong = attempted("exec", container.id, "oxenv", "health", "http://127.0.0.1:8100/docs")
        assert wrong.returncode == 1 and "404" in wrong.stderr


@pytest.mark.parametrize(("image", "confined"), [("echo-env", CONFINED), ("coding-env", WITH_TMP)])
def test_it_needs_no_rights(image, confined):
    with running(f"{image}:latest", *confined, "--user", "4711:4712") as container:
        assert echo(container.url, "hello") == "hello"
        assert json.loads(docker("inspect", "--format", "{{json .HostConfig.ReadonlyRootfs}}", container.id))


def test_names_are_found_without_a_system_s_libraries():
    network = f"oxenv-{os.getpid()}"
    docker("network", "create", network)
    try:
        with running("echo-env:latest", "--network", network, "--network-alias", "server"):
            asked = docker("run", "--rm", "--network", network, "oxenv:latest", "health", "http://server:8000")
            assert asked == "healthy"
    finally:
        docker("network", "rm", network)
