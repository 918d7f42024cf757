"""The multiplexer of the Rust client over a server of the npm registry and one of ours."""

import json
import subprocess

import pytest
from harness import components, everything

PROGRAM = components.TARGET / "debug" / "examples" / "tools"


def tools(*args: str) -> subprocess.CompletedProcess:
    assert PROGRAM.is_file(), f"{PROGRAM} is not built; run `cargo build -p oxenv-client --examples`"
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=30)


@pytest.fixture
def urls(serve):
    with everything.over_http() as url:
        yield url, f"{serve('echo').url}/mcp"


def test_two_servers_are_listed_as_one(urls):
    listed = tools("--strict", *urls)
    assert listed.returncode == 0, listed.stderr
    names = listed.stdout.split()
    assert names[-2:] == ["echo_message", "echo_with_length"]
    assert {"echo", "get-sum", "get-tiny-image"} <= set(names)
    assert f"{urls[1]}: 2 tools" in listed.stderr


def test_each_call_goes_to_its_owner(urls):
    summed = tools(*urls, "--call", "get-sum", '{"a": 1, "b": 2}')
    assert "1 and 2 is 3" in json.loads(summed.stdout)["content"][0]["text"], summed.stderr
    image = json.loads(tools(*urls, "--call", "get-tiny-image", "{}").stdout)
    assert [block["mimeType"] for block in image["content"] if block["type"] == "image"] == ["image/png"]
    ours = tools(*urls, "--call", "echo_message", '{"message": "hé"}')
    assert json.loads(ours.stdout)["content"][0]["text"] == "hé", ours.stderr
    refused = tools(*urls, "--call", "get-sum", '{"a": "one", "b": 2}')
    assert refused.returncode == 1 and "INVALID_ARGUMENTS: " in refused.stderr, refused.stderr


def test_a_server_that_is_away_is_named(urls):
    with_one_away = (urls[0], "http://127.0.0.1:1/mcp")
    listed = tools(*with_one_away)
    assert listed.returncode == 0 and "http://127.0.0.1:1/mcp: cannot be reached" in listed.stderr
    strict = tools("--strict", *with_one_away)
    assert strict.returncode == 1 and "ENDPOINT_UNAVAILABLE: 1 of 2 endpoints cannot be used" in strict.stderr
