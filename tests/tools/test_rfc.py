"""The manifests that the tools RFC prints, byte for byte: all valid, and served as far as they need no
internet.

A fragment is put under `tools:`, and no more. The folder /workspace is the RFC's container's; where one is
served here, another folder stands in its place.
"""

import subprocess
from pathlib import Path

import pytest
from harness import desktop
from harness.plain_http import get, post
from harness.server import binary, clean_environment
from tools.doors import newest_mcp, stock
from tools.mixed import TOKEN_FROM

RFC = Path(__file__).with_name("rfc")
PRINTED = ["manifest", "filesystem", "github", "airbnb_simulator"]


def printed(name: str) -> str:
    text = (RFC / f"{name}.yaml").read_text(encoding="utf-8")
    return f"tools:\n{text}" if text.startswith("- ") else text


@pytest.fixture(scope="module")
def env():
    with desktop.environment() as environment:
        yield environment | TOKEN_FROM


@pytest.mark.parametrize("name", PRINTED)
def test_it_is_valid(name, env, tmp_path):
    file = tmp_path / "tools.yaml"
    file.write_text(printed(name), encoding="utf-8")
    command = [str(binary()), "validate", str(file)]
    checked = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=clean_environment() | env
    )
    told = checked.stdout + checked.stderr
    assert checked.returncode == 0, told
    assert ("${workspace}" in told) == ("/workspace" in printed(name)), told


@pytest.mark.parametrize("name", ["manifest", "filesystem", "github"])
def test_it_is_served(name, env, tmp_path, serve_tools):
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "hello.txt").write_text("from the workspace")
    file = tmp_path / "tools.yaml"
    file.write_text(printed(name).replace("/workspace", str(folder)), encoding="utf-8")
    server = serve_tools(file, env=env)
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    toolsets = {tool["toolset"] for tool in get(f"{server.url}/tools", timeout_s=60.0).json()["tools"]}
    assert toolsets == ({"filesystem", "github"} if name == "manifest" else {name})
    if "filesystem" in toolsets:
        arguments = {"path": str(folder / "hello.txt")}
        for door in (stock, newest_mcp):
            assert "from the workspace" in door(server.url, "read_text_file", arguments).text
    if "github" in toolsets:
        answer = newest_mcp(server.url, "search_repositories", {"query": "oxenv"})
        assert answer.is_error and "fetch failed" in answer.text
