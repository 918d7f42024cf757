"""The manifests under examples/tools: all are valid, and each that needs no internet is served and called."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Iterator

import pytest
from harness import desktop
from harness.everything import free_port
from harness.plain_http import get, post
from harness.server import REPOSITORY, binary, clean_environment
from tools.doors import newest_mcp, step, stock
from tools.mixed import TOKEN, Mixed

EXAMPLES = REPOSITORY / "examples" / "tools"
KEY = "a-key-of-the-tests"
SETTINGS = {"GITHUB_TOKEN": TOKEN, "WEB_SEARCH_KEY": KEY}


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with desktop.environment() as environment:
        yield environment | SETTINGS


@pytest.fixture
def serve_example(serve_tools, env):
    """`serve_example("git")` serves that manifest, after a reset."""

    def serve(name: str, *flags: str, **settings: str):
        server = serve_tools(EXAMPLES / f"{name}.yaml", *flags, env=env | settings)
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        return server

    return serve


def validate(manifest, env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [str(binary()), "validate", str(manifest)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment() | env)


@pytest.mark.parametrize("manifest", sorted(EXAMPLES.glob("*.yaml")), ids=lambda manifest: manifest.stem)
def test_each_is_valid(manifest, env):
    checked = validate(manifest, env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert TOKEN not in checked.stdout + checked.stderr


def test_an_unset_variable_is_told_with_its_line(env):
    without = {name: value for name, value in env.items() if name != "GITHUB_TOKEN"}
    checked = validate(EXAMPLES / "github.yaml", without)
    line = (EXAMPLES / "github.yaml").read_text().split("${GITHUB_TOKEN}")[0].count("\n") + 1
    assert checked.returncode != 0
    assert f"github.yaml:{line}:" in checked.stdout + checked.stderr
    assert "GITHUB_TOKEN" in checked.stdout + checked.stderr


def test_the_readme_names_all():
    text = (EXAMPLES / "README.md").read_text()
    assert [file.name for file in EXAMPLES.glob("*.yaml") if f"`{file.name}`" not in text] == []


def test_github(serve_example):
    """It lists without the internet; what cannot be allowed is not offered."""
    server = serve_example("github")
    names = [tool["name"] for tool in get(f"{server.url}/tools", timeout_s=60.0).json()["tools"]]
    assert "search_repositories" in names and "create_issue" not in names
    answer = newest_mcp(server.url, "search_repositories", {"query": "oxenv"})
    assert answer.is_error and "fetch failed" in answer.text


def test_filesystem(serve_example):
    server = serve_example("filesystem")
    workspace = stock(server.url, "list_allowed_directories", {}).text.splitlines()[-1]
    note = {"path": f"{workspace}/note.txt"}
    assert not newest_mcp(server.url, "write_file", note | {"content": "kept"}).is_error
    assert "kept" in newest_mcp(server.url, "read_text_file", note).text
    # A reset gives a fresh workspace at the same place.
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    assert newest_mcp(server.url, "read_text_file", note).is_error


def test_database(serve_example, tmp_path):
    file = str(tmp_path / "notes.db")
    server = serve_example("database", DATABASE=file)
    created = {"query": "CREATE TABLE notes (text TEXT)"}
    assert "created" in stock(server.url, "create_table", created).text
    inserted = {"query": "INSERT INTO notes VALUES ('hello')"}
    stock(server.url, "write_query", inserted)
    assert "hello" in newest_mcp(server.url, "read_query", {"query": "SELECT * FROM notes"}).text
    # The agent's door does not offer what its role is denied, and refuses it.
    refused = newest_mcp(server.url, "write_query", inserted)
    assert refused.is_error and "write_query" in refused.text
    assert stock(server.url, "read_query", {"query": "SELECT count(*) AS n FROM notes"}).text.count("1") == 1


def test_git(serve_example, tmp_path, remote):
    repository = Mixed.make(tmp_path / "mixed", remote).repository
    server = serve_example("git", "--workspace", str(repository))
    assert newest_mcp(server.url, "git_status", {"repo_path": str(repository)}).is_error
    here = {"repo_path": "."}
    assert "first" in newest_mcp(server.url, "git_log", here).text
    assert not newest_mcp(server.url, "git_create_branch", here | {"branch_name": "agents"}).is_error
    assert "agents" in newest_mcp(server.url, "git_branch", here | {"branch_type": "local"}).text
    # A reset brings back what was there at first, and what the user named was never touched.
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    assert "agents" not in newest_mcp(server.url, "git_branch", here | {"branch_type": "local"}).text
    assert [file.name for file in (repository / ".git" / "refs" / "heads").iterdir()] == ["main"]


@contextmanager
def search_engine() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "web_search_server.py"), str(port)]
    process = subprocess.Popen(command, env=os.environ | {"WEB_SEARCH_KEY": KEY}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30.0
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert process.poll() is None and time.monotonic() < deadline, "the search engine does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


def test_web_search(serve_example):
    with search_engine() as url:
        server = serve_example("web_search", WEB_SEARCH_URL=url)
        answer = newest_mcp(server.url, "web_search", {"query": "agent reward"})
        assert answer.structured["result"][0]["url"] == "https://example.invalid/rewards"


def test_a_wrong_key_is_told_without_it(serve_tools, env):
    with search_engine() as url:
        settings = env | {"WEB_SEARCH_URL": url, "WEB_SEARCH_KEY": "wrong-key-of-the-tests"}
        server = serve_tools(EXAMPLES / "web_search.yaml", env=settings)
        told = get(f"{server.url}/tools", timeout_s=60.0).body + get(f"{server.url}/ready").body
        assert b"web_search" in told and b"401" in told
        assert b"wrong-key-of-the-tests" not in told + server.logged().encode()


def test_policy(serve_example):
    server = serve_example("policy")
    workspace = stock(server.url, "list_allowed_directories", {}).text.splitlines()[-1]
    offered = {tool["name"] for tool in get(f"{server.url}/tools", timeout_s=60.0).json()["tools"]}
    assert "read_text_file" in offered and not {"move_file", "read_media_file"} & offered

    # Arguments: only text files are written, by anybody.
    def written(name: str) -> dict:
        arguments = {"path": f"{workspace}/{name}", "content": "x"}
        return step(server.url, {"type": "call_tool", "tool_name": "write_file", "arguments": arguments})

    assert written("note.txt")["observation"]["error"] is None
    refused = written("note.sh")
    assert refused["observation"]["error"]["error_type"] in ("execution_error", "invalid_args")
    assert refused["reward"] is None

    # Roles and rates: an agent may make no folder, and reads three times before it must wait.
    denied = newest_mcp(server.url, "create_directory", {"path": f"{workspace}/folder"})
    assert denied.is_error
    reads = [newest_mcp(server.url, "read_text_file", {"path": f"{workspace}/note.txt"}) for _ in range(6)]
    assert [read.is_error for read in reads[:2]] == [False, False] and reads[-1].is_error
    assert "rate" in reads[-1].text




def test_the_policy_explains_itself(env):
    manifest = str(EXAMPLES / "policy.yaml")
    asked = ["agent", "filesystem/write_file", '{"path": "/etc/passwd", "content": ""}']
    command = [str(binary()), "policy", "explain", *asked, "--tools", manifest]
    explained = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=clean_environment() | env
    )
    assert explained.returncode == 1, explained.stderr
    assert "path" in explained.stdout
