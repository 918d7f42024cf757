"""Our Rust client against stock servers, by its example `episode`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.server import REPOSITORY, clean_environment, running, serve_command

LAUNCHER = Path(__file__).with_name("stock_server.py")


def episode_binary() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    built = target / "debug" / "examples" / "episode"
    assert built.is_file(), f"{built} is not built; run `cargo build -p oxenv-client --examples`"
    return built


def stock(kind: str, capacity: int = 1):
    """A stock server of this environment's OpenEnv version. One slot is its own default."""
    command = [sys.executable, str(LAUNCHER), kind, str(capacity)]
    banner = rf"stock_server: serving {kind} on (http://127\.0\.0\.1:\d+)"
    return running(command, banner, env={"PYTHONPATH": str(REPOSITORY / "tests")})


def play(url: str, *steps: str, protocol: str = "auto") -> list[dict[str, Any]]:
    env = clean_environment() | {"OPENENV_PROTOCOL": protocol}
    played = subprocess.run(
        [episode_binary(), url, *steps], env=env, capture_output=True, text=True, timeout=60
    )
    assert played.returncode == 0, played.stderr
    return [json.loads(line) for line in played.stdout.splitlines()]


def test_an_episode_of_a_typed_environment_and_again_in_its_one_slot():
    with stock("typed") as server:
        for protocol in ("auto", "auto", "stock"):
            lines = play(
                server.url, '{"message":"hi"}', '{"message":"raise"}', '{"wrong":1}', protocol=protocol
            )
            chosen, reset, step, raised, invalid, state = lines
            assert chosen == {"protocol": "Stock"}
            assert reset["reset"]["echoed_message"] == "seed 7" and reset["reward"] == 0.0
            assert step["step"]["echoed_message"] == "hi" and step["reward"] is True and step["done"] is False
            assert (raised["error"], raised["message"]) == ("EXECUTION_ERROR", "made to raise")
            assert raised["delivered"] == "yes"
            assert invalid["error"] == "VALIDATION_ERROR" and "message: Field required" in invalid["message"]
            assert state["state"]["step_count"] == 2


def test_tools_of_a_stock_server_are_checked_and_called():
    with stock("tools") as server:
        lines = play(
            server.url,
            'echo_message={"message":"hi"}',
            'echo_with_length={"message":"hi"}',
            'echo_message={"message":5}',
            "nope={}",
            '{"type":"call_tool","tool_name":"nope","arguments":{}}',
        )
        _, _, said, measured, misfit, unknown, step, _ = lines
        assert said == {"text": "hi", "is_error": False}
        assert json.loads(measured["text"]) == {"message": "hi", "length": 2}
        assert misfit["error"] == "INVALID_ARGUMENTS" and misfit["delivered"] == "no"
        assert unknown["error"] == "TOOL_NOT_FOUND" and "echo_message" in unknown["message"]
        assert step["step"]["error"]["error_type"] == "tool_not_found"


def test_a_full_stock_server_is_told():
    with stock("typed") as server:
        held = subprocess.Popen(
            [episode_binary(), server.url, *(['{"message":"slow"}'] * 20)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert '"protocol"' in held.stdout.readline() and '"reset"' in held.stdout.readline()
            (_, full) = play(server.url)
            assert (full["error"], full["delivered"]) == ("CAPACITY_REACHED", "no")
        finally:
            held.kill()
            held.wait()
            held.stdout.close()


def test_a_stock_servers_http_routes():
    with stock("typed") as server:
        chosen, reset, step, *_ = play(server.url, '{"message":"hi"}', protocol="http")
        assert chosen == {"protocol": "Http"}
        assert reset["reset"]["echoed_message"] == "seed 7"
        assert step["step"]["echoed_message"] == "hi" and step["reward"] == 1.0


@pytest.mark.parametrize("protocol", ["auto", "stock", "oxenv1", "http"])
def test_our_server_over_every_protocol(protocol):
    with running(*serve_command("echo")) as server:
        chosen, _, said, misfit, state = play(
            server.url, 'echo_message={"message":"hi"}', "echo_message={}", protocol=protocol
        )
        spoken = {"auto": "Oxenv1", "stock": "Stock", "oxenv1": "Oxenv1", "http": "Http"}[protocol]
        assert chosen == {"protocol": spoken}
        assert said == {"text": "hi", "is_error": False}
        assert misfit["error"] == "INVALID_ARGUMENTS"
        assert state["state"]["step_count"] == 1
