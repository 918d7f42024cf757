"""Programs of agents that call the tools of third-party servers: the scenario of the tools RFC."""

import subprocess

from harness import components
from harness.plain_http import post
from harness.server import binary
from tools.mixed import write_manifest

# A program that reads a file with a tool and filters its lines.
FILTER = """
folder = list_allowed_directories()["content"].splitlines()[-1]
write_file(f"{folder}/log.txt", "ok: start\\nerror: disk\\nok: end\\nerror: net\\n")
lines = read_text_file(path=f"{folder}/log.txt")["content"].splitlines()
errors = [line for line in lines if line.startswith("error")]
print(len(lines), "lines")
errors
"""


def run_code(server, code: str) -> dict:
    reply = post(f"{server.url}/step", {"action": {"action_type": "code", "code": code}}, timeout_s=60.0)
    assert reply.status == 200, reply.body
    return reply.json()["observation"]


def test_a_program_reads_a_file_with_a_tool_and_filters_lines(tmp_path, serve_tools):
    files = components.filesystem("${workspace}").in_manifest("files", on_fork="workspace")
    server = serve_tools(write_manifest(tmp_path / "tools.yaml", [files]), "--code", "monty")
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    shown = run_code(server, FILTER)
    assert shown["error"] is None, shown
    assert (shown["stdout"], shown["result"]) == ("4 lines\n", ["error: disk", "error: net"])
    assert [call["tool_name"] for call in shown["calls"]] == [
        "list_allowed_directories",
        "write_file",
        "read_text_file",
    ]
    # Variables persist, and names are found as the RFC does it.
    assert run_code(server, "len(errors)")["result"] == 2
    assert run_code(server, "[t for t in list_tools() if 'write' in t]")["result"] == ["write_file"]
    refused = run_code(server, "read_text_file('/etc/passwd')")["error"]
    assert refused["message"].startswith("execution_error: "), refused
    assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
    assert run_code(server, "errors")["error"]["error_type"] == "NameError"


def test_the_same_program_runs_from_the_command_line(tmp_path):
    files = components.filesystem("${workspace}").in_manifest("files")
    manifest = write_manifest(tmp_path / "tools.yaml", [files])
    command = [str(binary()), "run", "-", "--tools", str(manifest)]
    ended = subprocess.run(
        command, input=FILTER + "print(errors)", capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "4 lines\n['error: disk', 'error: net']\n"), ended.stderr
