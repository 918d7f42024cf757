"""What README.md prints is what happens: its Python block, its commands, its Rust excerpt."""

import json
import re
import subprocess
import sys

from clients.stock import newest_only
from harness.server import REPOSITORY, binary, clean_environment

README = (REPOSITORY / "README.md").read_text()


def block(language: str, holding: str) -> str:
    """The fenced block of that language that holds a text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if holding in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holding!r}"
    return found[0]


@newest_only("the README shows the newest client")
def test_the_python_block(serve):
    program = block("python", "GenericEnvClient").replace("http://127.0.0.1:8000", serve("echo").url)
    promised = re.search(r"#\s*(.*)", program).group(1)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert (run.returncode, run.stdout.strip()) == (0, promised), run.stderr


def test_the_first_lines_of_serve(serve):
    server = serve("echo")
    promised = block("text", "oxenv: serving").replace("http://127.0.0.1:8000", server.url).splitlines()
    curl = promised[1].removeprefix("try: ")
    run = subprocess.run(["bash", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=60)
    assert json.loads(run.stdout)["observation"]["tools"][0]["name"] == "echo_message"
    shown = subprocess.run([str(binary()), "envs"], capture_output=True, text=True, timeout=60)
    assert "connect4" in shown.stdout and "grid_world" in shown.stdout


def test_a_session_for_both_doors(serve):
    url = serve("echo").url
    curl = block("sh", "/sessions").splitlines()[0].replace("http://127.0.0.1:8000", url)
    made = json.loads(subprocess.run(["bash", "-c", f"{curl} -s"], capture_output=True, text=True).stdout)
    assert made["mcp_url"] == f"{url}/sessions/{made['session_id']}/mcp" and made["agent_token"] is None
    call = [str(binary()), "call", made["mcp_url"], "echo_message", '{"message": "hi"}']
    assert subprocess.run(call, capture_output=True, text=True, timeout=60).stdout == "hi\n"


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).replace(",}", "}")


def test_the_rust_excerpt_is_the_example():
    example = squeezed((REPOSITORY / "crates/oxenv-server/examples/counter.rs").read_text())
    for part in block("rust,ignore", "TypedEnvironment").split("\n\n"):
        assert squeezed(part) in example, part
