"""The package itself: its README, its types, its list of names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import oxenv
from conftest import finished, program, started_hosted
from harness import components
from test_fleet import simulated

FOLDER = Path(__file__).resolve().parents[1]
README = (FOLDER / "README.md").read_text()
GUIDE = (FOLDER.parents[1] / "docs" / "python.md").read_text()
EXAMPLE_URL = "http://127.0.0.1:8000"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_examples_of_the_readme_print_what_they_say() -> None:
    episode, tools, environment, *_ = blocks("python")
    assert [finished(program(source)) for source in (episode, tools, environment)] == blocks("text")
    assert len(episode.strip().splitlines()) <= 15


def test_the_fleet_example_of_the_readme() -> None:
    source = next(block for block in blocks("python") if "from_fleet" in block)
    with simulated() as fleet:
        assert finished(program(source, **fleet.variables)) == "True False\n"
        assert fleet.running() == []


def test_the_examples_of_the_guide_run(serve: Any) -> None:
    examples = [block for block in blocks("python", GUIDE) if EXAMPLE_URL in block]
    for example, environment in zip(examples, ["echo", "grid_world", "grid_world"], strict=True):
        url = serve(environment, "--max-sessions", "8").url
        finished(program(example.replace(EXAMPLE_URL, url)))


def test_the_environments_of_the_guide_run_and_are_served(tmp_path: Path) -> None:
    modules = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", GUIDE, re.S)
    assert [name for name, _ in modules] == ["guessing", "calculator", "files"]
    manifest = {"tools": [components.time().in_manifest("time")]}
    (tmp_path / "tools.yaml").write_text(json.dumps(manifest))
    for name, source in modules:
        (tmp_path / f"{name}.py").write_text(source)
    printed = re.findall(r"\$ python \w+\.py\n(.*?)\n", GUIDE)
    assert [alone(tmp_path, name) for name, _ in modules[:2]] == printed
    assert alone(tmp_path, "files") == "['get_current_time', 'convert_time']"
    actions = [
        ("guessing:Guessing", {"number": 50}),
        ("calculator:Calculator", oxenv.CallToolAction("add", {"a": 40, "b": 2})),
        ("files:Files", oxenv.CallToolAction("get_current_time", {"timezone": "UTC"})),
    ]
    results = []
    for served, action in actions:
        with started_hosted(served, tmp_path) as url, oxenv.GenericEnvClient(base_url=url) as env:
            env.reset(seed=7, **({"most": 100} if "Guess" in served else {}))
            results.append(env.step(action))
    guess, sum_, time = results
    assert guess.observation["hint"] == printed[0]
    assert f"{sum_.observation['metadata']['result']} {sum_.reward}" == printed[1] and sum_.done
    assert time.observation["metadata"]["result"]["timezone"] == "UTC"


def alone(folder: Path, name: str) -> str:
    """What a module prints when it is run."""
    run = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_fleet_example_of_the_guide() -> None:
    (example,) = [block for block in blocks("python", GUIDE) if "from_fleet" in block]
    with simulated() as fleet:
        finished(program(example, **fleet.variables))
        assert fleet.running() == []


def test_a_command_is_found_where_this_process_finds_it(monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(oxenv.binary().parent), prepend=os.pathsep)
    command = [oxenv.binary().name, "serve", "echo", "--port", "{port}"]
    with oxenv.GenericEnvClient.from_process(command) as env:
        assert [tool.name for tool in env.list_tools()] == ["echo_message", "echo_with_length"]


def test_what_is_exported_is_there_and_documented() -> None:
    assert len(set(oxenv.__all__)) == len(oxenv.__all__)
    for name in oxenv.__all__:
        value = getattr(oxenv, name)
        assert name == "__version__" or (value.__doc__ and not value.__doc__.startswith(f"{name}(")), name


def checked(*command: str, cwd: Path) -> None:
    run = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_its_types_are_checked(tmp_path: Path) -> None:
    checked("mypy", "--strict", "--cache-dir", str(tmp_path), "-p", "oxenv", cwd=tmp_path)


def test_the_stubs_are_those_of_the_native_module(tmp_path: Path) -> None:
    checked("mypy.stubtest", "oxenv", cwd=tmp_path)


TYPED = """
from oxenv import GenericEnvClient, StepResult, Tool

def play(url: str) -> list[Tool]:
    with GenericEnvClient(base_url=url).sync() as env:
        result: StepResult[dict[str, object]] = env.reset(seed=1)
        reveal_type(result.reward)
        return env.list_tools()
"""


def test_programs_see_the_types(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "typed.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "float | None" in run.stdout and "no issues" in run.stdout, run.stdout
