"""With --reload a change of a file ends all sessions, and the next episode runs the new code."""

import json
import os
import urllib.error
import urllib.request

import pytest
from harness.server import binary, running

from hosted.conftest import hosted_command
from hosted.processes import is_alive, wait_until

BANNER = r"oxenv: serving changing on (http://127\.0\.0\.1:\d+)"
CODE = """
import os
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Seen(Observation):
    version: int = 0
    pid: int = 0
    data: str = ""


class Changing(Environment):
    def reset(self, seed=None, episode_id=None):
        with open("data.txt", encoding="utf-8") as file:
            return Seen(version=VERSION, pid=os.getpid(), data=file.read())

    def step(self, action, timeout_s=None):
        while action.metadata.get("hang"):
            pass
        return self.reset()

    @property
    def state(self):
        return State()


app = create_app(Changing, Action, Seen, env_name="changing")
"""


def ask(server, path, body=None):
    data, headers = json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def refused(server, path, body=None):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, path, body)
    return json.load(error.value)


def write(folder, version):
    (folder / "app.py").write_text(f"VERSION = {version}\n{CODE}")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "changing"
    made.mkdir()
    (made / "data.txt").write_text("first")
    write(made, 1)
    return made


@pytest.mark.parametrize("isolation", ["fork", "fresh"])
def test_a_change_ends_sessions_and_is_served_then(folder, isolation):
    with running(hosted_command(str(folder), "--reload", "--isolation", isolation), BANNER) as server:
        first = ask(server, "/reset")["observation"]
        session = ask(server, "/sessions")["session_id"]
        other = ask(server, f"/sessions/{session}/reset")["observation"]
        assert first["version"] == other["version"] == 1
        write(folder, 2)
        said = refused(server, "/step", {"action": {"metadata": {"hang": True}}})
        assert "was ended, because app.py has changed" in said["detail"]
        assert "reset the session" in said["detail"] and said["oxenv"]["kind"] == "infrastructure"
        wait_until(lambda: not is_alive(other["pid"]))
        said = refused(server, f"/sessions/{session}/step", {"action": {}})
        assert "because app.py has changed" in said["detail"]
        assert ask(server, "/reset")["observation"]["version"] == 2
        assert ask(server, f"/sessions/{session}/reset")["observation"]["version"] == 2


def test_an_error_in_a_change_is_told_until_it_is_mended(folder):
    with running(hosted_command(str(folder), "--reload"), BANNER) as server:
        ask(server, "/reset")
        (folder / "app.py").write_text("def:")
        wait_until(lambda: "cannot be imported" in server.logged())
        assert "SyntaxError" in refused(server, "/reset")["detail"]
        write(folder, 3)
        wait_until(lambda: "imported the environment again" in server.logged())
        assert ask(server, "/reset")["observation"]["version"] == 3


def test_data_counts_and_caches_do_not(folder):
    with running(hosted_command(str(folder), "--reload"), BANNER) as server:
        assert ask(server, "/reset")["observation"]["data"] == "first"
        for name in ("__pycache__", ".venv", ".git"):
            (folder / name).mkdir()
            (folder / name / "new").write_text("new")
        (folder / "app.py~").write_text("new")
        (folder / "data.txt").write_text("second")
        wait_until(lambda: "imported the environment again" in server.logged())
        assert "file=data.txt" in server.logged() and server.logged().count("has changed") == 1
        assert ask(server, "/reset")["observation"]["data"] == "second"


def test_without_reload_a_change_changes_nothing(folder):
    with running(hosted_command(str(folder)), BANNER) as server:
        pid = ask(server, "/reset")["observation"]["pid"]
        write(folder, 2)
        os.utime(folder / "app.py")
        assert ask(server, "/step", {"action": {}})["observation"]["pid"] == pid
        assert ask(server, "/reset")["observation"]["version"] == 1


MANIFEST = """
version: "1.0"
tools:
  - name: words
    mcp_server: {transport: python, path: words.py}
"""
TOOL = '''
from helper import VERSION

def {name}(text: str) -> str:
    return f"{{VERSION}} {{text}}"
'''


def called(server, tool):
    action = {"type": "call_tool", "tool_name": tool, "arguments": {"text": "a"}}
    seen = ask(server, "/step", {"action": action})["observation"]
    return seen["error"]["message"] if seen["error"] else seen["result"]["data"]


def test_tools_in_python_are_imported_again(tmp_path):
    (tmp_path / "tools.yaml").write_text(MANIFEST)
    (tmp_path / "words.py").write_text(TOOL.format(name="shout"))
    (tmp_path / "helper.py").write_text("VERSION = 1\n")
    command = [str(binary()), "serve", "--tools", str(tmp_path / "tools.yaml"), "--reload", "--port", "0"]
    with running(command, r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)") as server:
        ask(server, "/reset")
        assert called(server, "shout") == "1 a"
        (tmp_path / "helper.py").write_text("VERSION = 2\n")
        assert called(server, "shout") == "2 a"
        (tmp_path / "words.py").write_text(TOOL.format(name="whisper"))
        wait_until(lambda: called(server, "whisper") == "2 a")
        (tmp_path / "words.py").write_text("def:")
        assert "words.py has changed and cannot be imported: SyntaxError" in called(server, "whisper")
        (tmp_path / "words.py").write_text(TOOL.format(name="shout"))
        wait_until(lambda: called(server, "shout") == "2 a")
