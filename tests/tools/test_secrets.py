"""A secret's value is in the environment of the server that gets it, and nowhere else."""

import signal

from harness import components
from harness.plain_http import get, post
from harness.server import started, tools_command
from tools.doors import step, stock
from tools.mixed import TOKEN, TOKEN_FROM, write_manifest

TELLS_IT = 'echo "cannot start with the token $TOKEN" >&2; exit 1'


def test_it_is_nowhere(tmp_path, remote):
    broken = {
        "command": "sh",
        "args": ["-c", TELLS_IT],
        "transport": "stdio",
        "env": {"TOKEN": "${GITHUB_TOKEN}"},
    }
    by_argument = {"command": "sh", "args": ["-c", "exit 1", "${GITHUB_TOKEN}"], "transport": "stdio"}
    # Nobody listens on the discard port.
    by_header = {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer ${GITHUB_TOKEN}"}}
    by_address = {"url": "http://127.0.0.1:9/${GITHUB_TOKEN}/mcp?key=${GITHUB_TOKEN}"}
    works = {"url": f"{remote}?key=${{GITHUB_TOKEN}}", "headers": {"X-Key": "${GITHUB_TOKEN}"}}
    entries = [
        components.github("${GITHUB_TOKEN}").in_manifest("github"),
        {"name": "tells", "type": "mcp", "mcp_server": broken},
        {"name": "argument", "type": "mcp", "mcp_server": by_argument},
        {"name": "header", "type": "mcp", "mcp_server": by_header},
        {"name": "address", "type": "mcp", "mcp_server": by_address},
        {"name": "works", "type": "mcp", "mcp_server": works},
    ]
    manifest = write_manifest(tmp_path / "tools.yaml", entries)
    audit = tmp_path / "audit.jsonl"
    flags = ["--audit", str(audit), "--audit-arguments", "--log", "trace"]
    with started(*tools_command(manifest, *flags), env=TOKEN_FROM) as server:
        assert post(f"{server.url}/reset", {}, timeout_s=60.0).status == 200
        replies = [
            get(f"{server.url}/tools", timeout_s=60.0).body.decode(),
            get(f"{server.url}/ready").body.decode(),
            str(step(server.url, {"type": "list_tools"})),
        ]
        # Said by the agent itself: it comes back to it, and stays out of every record.
        for query in ("oxenv", TOKEN):
            action = {"type": "call_tool", "tool_name": "search_repositories", "arguments": {"query": query}}
            replies.append(str(step(server.url, action)))
        assert "here" in stock(server.url, "echo", {"message": "here"}).text
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=15) == 0
        told = {
            "replies": "\n".join(replies),
            "stdout": server.process.stdout.read().decode(),
            "stderr": server.logged(),
            "audit": audit.read_text(),
        }
    # Each place was spoken of, so that a silence proves something.
    assert "search_repositories" in told["audit"]
    assert (
        "cannot start with the token" in told["stderr"] and "cannot start with the token" in told["replies"]
    )
    assert all(entry["name"] in told["replies"] for entry in entries)
    assert [where for where, text in told.items() if TOKEN in text] == []
