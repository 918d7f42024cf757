"""images/compose.yaml with whichever compose there is: both servers listen, confined, and are gone
afterwards."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

from docker.containers import IMAGES, attempted, docker
from docker.test_images import echo
from harness.plain_http import post
from tools.doors import stock


def compose(*arguments: str, env: dict[str, str], check: bool = True) -> subprocess.CompletedProcess:
    plugin = attempted("compose", "version").returncode == 0
    command = ["docker", "compose"] if plugin else [shutil.which("docker-compose")]
    given = ["--file", str(IMAGES / "compose.yaml"), "--project-name", "oxenv-tests"]
    # A setting of the machine must not stand in for one of the file.
    kept = {name: value for name, value in os.environ.items() if name not in ("OWNER", "WORKSPACE")}
    done = subprocess.run(
        [*command, *given, *arguments], capture_output=True, text=True, timeout=120, env=kept | env
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_both_services(tmp_path: Path):
    (tmp_path / "hello.txt").write_text("from the workspace")
    os.chown(tmp_path, 1234, 1235)
    ports = {"ECHO_PORT": free_port(), "CODING_PORT": free_port()}
    env = {"WORKSPACE": str(tmp_path), "OWNER": "1234:1235", **ports}
    compose("up", "--detach", env=env)
    try:
        for service in compose("ps", "--quiet", env=env).stdout.split():
            follow_until_it_listens(service)
        assert echo(f"http://127.0.0.1:{ports['ECHO_PORT']}", "hello") == "hello"
        coding = f"http://127.0.0.1:{ports['CODING_PORT']}"
        assert post(f"{coding}/reset", {}, timeout_s=60.0).status == 200
        read = stock(coding, "read_text_file", {"path": "/workspace/hello.txt"})
        assert "from the workspace" in read.text
        for container in docker("ps", "-q").split():
            host = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", container))
            assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["PidsLimit"] == 256
            assert host["Memory"] == 1 << 30 and host["SecurityOpt"] == ["no-new-privileges:true"]
    finally:
        compose("down", env=env)
    assert os.stat(tmp_path).st_uid == 1234


def test_it_asks_for_the_folder():
    refused = compose("config", env={"OWNER": "1:1"}, check=False)
    assert refused.returncode != 0 and "the folder that the tools work in" in refused.stderr


def follow_until_it_listens(container: str) -> None:
    with subprocess.Popen(
        ["docker", "logs", "--follow", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as log:
        listens = any("oxenv: serving" in line for line in log.stdout)
        log.kill()
    assert listens
