"""Sessions with real servers of tools, forked, saved and restored: each toolset as its `on_fork` says."""

import sqlite3
import subprocess

import pytest
from harness import components
from harness.mcp_raw import stateless
from harness.plain_http import post
from tools.doors import Answer
from tools.mixed import write_manifest

FORKS = 3


def agent(server, session: str, tool: str, **arguments: object) -> Answer:
    url = f"{server.url}/sessions/{session}/mcp"
    return Answer.of_mcp(stateless(url, "tools/call", {"name": tool, "arguments": arguments})["result"])


def opened(server) -> str:
    session = post(f"{server.url}/sessions", {}, timeout_s=60.0).json()["session_id"]
    assert post(f"{server.url}/sessions/{session}/reset", {}, timeout_s=60.0).status == 200
    return session


def forked(server, session: str, n: int = FORKS) -> list[str]:
    reply = post(f"{server.url}/sessions/{session}/fork", {"n": n}, timeout_s=60.0)
    assert reply.status in (200, 201), reply.body
    return [fork["session_id"] for fork in reply.json()["sessions"]]


def restored(server, session: str) -> str:
    saved = post(f"{server.url}/sessions/{session}/snapshot", {}, timeout_s=60.0)
    assert saved.status in (200, 201), saved.body
    reply = post(f"{server.url}/restore", {"snapshot": saved.json()["snapshot"]}, timeout_s=60.0)
    assert reply.status in (200, 201), reply.body
    return reply.json()["session_id"]


def folder_of(server, session: str) -> str:
    return agent(server, session, "list_allowed_directories").text.splitlines()[-1]


def test_files_follow_under_the_path_that_the_agent_knows(tmp_path, serve_tools):
    files = components.filesystem("${workspace}").in_manifest("files", on_fork="workspace")
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [files]))
    session = opened(server)
    folder = folder_of(server, session)
    path = f"{folder}/plan.txt"
    agent(server, session, "create_directory", path=f"{folder}/deep")
    assert not agent(server, session, "write_file", path=path, content="before").is_error

    copies = [*forked(server, session), restored(server, session)]
    for number, copy in enumerate(copies):
        assert folder_of(server, copy) == folder
        assert agent(server, copy, "read_text_file", path=path) == agent(
            server, session, "read_text_file", path=path
        )
        assert not agent(
            server, copy, "edit_file", path=path, edits=[{"oldText": "before", "newText": f"{number}"}]
        ).is_error
        assert not agent(
            server, copy, "move_file", source=path, destination=f"{folder}/deep/{number}.txt"
        ).is_error
    assert "before" in agent(server, session, "read_text_file", path=path).text
    for number, copy in enumerate(copies):
        assert agent(server, copy, "read_text_file", path=f"{folder}/deep/{number}.txt").text == f"{number}"
        others = agent(server, copy, "list_directory", path=f"{folder}/deep").text
        assert others.splitlines() == [f"[FILE] {number}.txt"]


def test_a_memory_is_brought_back_by_repeating_its_calls(tmp_path, serve_tools):
    thinking = components.sequential_thinking().in_manifest("thinking", on_fork="replay", on_reset="restart")
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [thinking]))
    session = opened(server)

    def think(session: str, number: int) -> int:
        thought = {
            "thought": f"{number}",
            "thoughtNumber": number,
            "totalThoughts": 9,
            "nextThoughtNeeded": True,
        }
        return agent(server, session, "sequentialthinking", **thought).structured["thoughtHistoryLength"]

    assert [think(session, number) for number in (1, 2, 3)] == [1, 2, 3]
    copies = [*forked(server, session, 2), restored(server, session)]
    assert [think(copy, 4) for copy in copies] == [4, 4, 4]
    assert [think(copies[0], 5), think(session, 4)] == [5, 4]


def test_a_repository_and_a_database_are_files(tmp_path, serve_tools):
    given = tmp_path / "given"
    given.mkdir()
    with sqlite3.connect(given / "notes.db") as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    (given / "README.md").write_text("a repository\n")
    (given / ".gitignore").write_text("notes.db\n")
    identity = [("user.name", "tests"), ("user.email", "tests@example.invalid")]
    commands = [["init", "--quiet", "-b", "main"], *(["config", *pair] for pair in identity), ["add", "."]]
    for arguments in [*commands, ["commit", "--quiet", "-m", "first"]]:
        subprocess.run(["git", "-C", str(given), *arguments], check=True, capture_output=True)
    entries = [
        components.filesystem("${workspace}").in_manifest("files", on_fork="workspace"),
        components.git("${workspace}").in_manifest("git", on_fork="workspace"),
        components.sqlite("${workspace}/notes.db").in_manifest("database", on_fork="workspace"),
    ]
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", entries), "--workspace", str(given))
    session = opened(server)
    folder = folder_of(server, session)

    def commit(session: str, name: str) -> None:
        assert not agent(server, session, "write_file", path=f"{folder}/{name}", content=name).is_error
        assert not agent(server, session, "git_add", repo_path=folder, files=[name]).is_error
        assert not agent(server, session, "git_commit", repo_path=folder, message=name).is_error
        insert = f"INSERT INTO notes VALUES ('{name}')"
        assert not agent(server, session, "write_query", query=insert).is_error

    def history(session: str) -> tuple[int, str]:
        log = agent(server, session, "git_log", repo_path=folder, max_count=10).text
        return log.count("Message:"), agent(
            server, session, "read_query", query="SELECT text FROM notes"
        ).text

    commit(session, "before")
    before = history(session)
    assert before[0] == 2
    copies = [*forked(server, session, 2), restored(server, session)]
    assert [history(copy) for copy in copies] == [before] * 3
    for number, copy in enumerate(copies):
        commit(copy, f"copy-{number}")
    commit(session, "original")
    for name, one in [
        ("original", session),
        *((f"copy-{number}", copy) for number, copy in enumerate(copies)),
    ]:
        commits, notes = history(one)
        assert commits == 3 and "before" in notes and name in notes
        assert notes.count("text") == 2


@pytest.mark.parametrize("path, body", [("fork", {"n": 2}), ("snapshot", {})])
def test_what_declares_nothing_is_named(tmp_path, serve_tools, path, body):
    files = components.filesystem("${workspace}").in_manifest("files", on_fork="workspace")
    plain = components.sequential_thinking().in_manifest("thinking")
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [files, plain]))
    session = opened(server)
    reply = post(f"{server.url}/sessions/{session}/{path}", body, timeout_s=60.0)
    assert reply.status >= 400, reply.body
    said = reply.body.decode()
    assert "toolset 'thinking'" in said and "on_fork" in said, said
    assert post(f"{server.url}/sessions/{session}/reset", {}, timeout_s=60.0).status == 200
