"""The Python of the tools RFC, as printed but for its import lines: in process, and served.

Where the RFC leaves something out with `, ...` in a call, which is no Python, that is left out here too. Its
last snippet, which starts a container, is in test_docker.py.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SOON_S, started_hosted
from harness import components

from oxenv import GenericEnvClient, UnifiedAction

# 1. Loading Manifest in Environment
LOADING_IMPORTS = """\
import yaml
from pathlib import Path
from oxenv import Environment, MCPClientManager, State as MyState
"""
LOADING = """\
class MyEnvironment(Environment):
    def __init__(self):
        super().__init__()
        self._state = MyState()

        # Load tools manifest
        tools_config = self._load_tools_manifest()
        self._mcp_manager = MCPClientManager(tools_config)

    def _load_tools_manifest(self) -> dict:
        manifest_path = Path(__file__).parent.parent / "tools.yaml"
        if manifest_path.exists():
            with open(manifest_path) as f:
                return yaml.safe_load(f)
        return {"tools": []}
"""

# 2. New HTTP Endpoint: /tools
ENDPOINT_IMPORTS = """\
from typing import Any, Dict
from application import app, env
"""
ENDPOINT = """\
@app.get("/tools")
async def get_tools() -> Dict[str, Any]:
    \"\"\"Get available tools in this environment.\"\"\"
    tools = env.get_available_tools()
    return {
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "inputSchema": tool.input_schema,
            }
            for tool in tools
        ]
    }
"""

# 3. Action Model Extension
ACTION_IMPORTS = """\
from dataclasses import dataclass
from typing import Any, Dict, Optional
from oxenv import Action
"""
ACTION = """\
@dataclass
class UnifiedAction(Action):
    \"\"\"Unified action supporting both code and tools.\"\"\"
    action_type: str  # "code" or "tool"
    code: Optional[str] = None
    tool_name: Optional[str] = None
    tool_args: Optional[Dict[str, Any]] = None
"""

# 4. Environment Step Logic
STEP_IMPORTS = """\
from oxenv import Observation as MyObservation
"""
STEP = """\
def step(self, action: UnifiedAction) -> MyObservation:
    if action.action_type == "code":
        result = self._executor.run(action.code)
        return MyObservation(stdout=result.stdout)

    elif action.action_type == "tool":
        tool_result = self._mcp_manager.call_tool(
            tool_name=action.tool_name,
            arguments=action.tool_args
        )
        return MyObservation(stdout=str(tool_result.content))
"""

# 5. Environment Logic for Tool Support
SUPPORT_IMPORTS = """\
from typing import Any, Dict, List
from oxenv import Environment, MCPClientManager
"""
SUPPORT = """\
class ToolEnabledEnvironment(Environment):
    \"\"\"Base class for environments that support MCP tools.\"\"\"

    def __init__(self, tools_manifest: str | None = None):
        super().__init__()
        if tools_manifest:
            tools_config = self._load_tools_manifest(tools_manifest)
            self._mcp_manager = MCPClientManager(tools_config)

    def get_available_tools(self) -> List[Dict[str, Any]]:
        if self._mcp_manager:
            return self._mcp_manager.get_available_tools()
        return []
"""

#: What the second snippet finds: any web framework's application, and an environment.
APPLICATION = """\
from my_environment import MyEnvironment

class Application:
    def __init__(self):
        self.routes = {}
    def get(self, path):
        return lambda handler: self.routes.setdefault(path, handler)

app, env = Application(), MyEnvironment()
"""

CONVERTED = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
TIME_TOOLS = ["get_current_time", "convert_time"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The RFC's folder of an environment, with a manifest; its `server` is where modules are found."""
    server = tmp_path / "my_env" / "server"
    server.mkdir(parents=True)
    manifest = {"version": "1.0", "tools": [components.time().in_manifest("time", enabled=True)]}
    (server.parent / "tools.yaml").write_text(json.dumps(manifest))
    # The step is printed as a method without its class.
    whole = LOADING_IMPORTS + ACTION_IMPORTS + STEP_IMPORTS + LOADING + ACTION + STEP
    (server / "my_environment.py").write_text(whole + "\nMyEnvironment.step = step\n")
    (server / "application.py").write_text(APPLICATION)
    monkeypatch.syspath_prepend(str(server))
    for name in ("my_environment", "application"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return server


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(source, "<snippet>", "exec"), names)
    return names


def test_the_manifest_is_loaded_and_the_step_takes_code_and_tools(folder: Path) -> None:
    from my_environment import MyEnvironment
    from my_environment import UnifiedAction as Printed

    with MyEnvironment() as env:
        assert env.state.step_count == 0
        env.reset(seed=1)
        assert [tool.name for tool in env.get_available_tools()] == TIME_TOOLS
        env.step(Printed(action_type="code", code="x = 20 + 1"))
        assert env.step(Printed(action_type="code", code="print(2 * x)")).stdout == "42\n"
        observation = env.step(Printed("tool", tool_name="convert_time", tool_args=CONVERTED))
        assert "21:00" in observation.stdout and observation.reward is None and not observation.done
        env.reset()
        assert env.step(Printed(action_type="code", code="print(x)")).stdout == ""


def test_without_a_manifest_there_are_no_tools(folder: Path) -> None:
    (folder.parent / "tools.yaml").unlink()
    from my_environment import MyEnvironment

    with MyEnvironment() as env:
        assert env.get_available_tools() == []


def test_it_is_served(folder: Path) -> None:
    with started_hosted("my_environment:MyEnvironment", folder) as url:
        with GenericEnvClient(base_url=url) as env:
            env.reset(seed=1, timeout_s=SOON_S)
            coded = env.step(UnifiedAction("code", code="print(6 * 7)"))
            assert coded.observation["stdout"] == "42\n"
            called = env.step(UnifiedAction("tool", tool_name="convert_time", tool_args=CONVERTED))
            assert "21:00" in called.observation["stdout"]
            # Its tools are offered to agents over MCP, too.
            assert [tool.name for tool in env.list_tools()] == TIME_TOOLS
            assert env.state()["step_count"] == 2


def test_the_endpoint_lists_the_tools(folder: Path) -> None:
    names = run(ENDPOINT_IMPORTS + ENDPOINT)
    listed = asyncio.run(names["app"].routes["/tools"]())
    assert [tool["name"] for tool in listed["tools"]] == TIME_TOOLS
    assert listed["tools"][1]["inputSchema"]["required"] == list(CONVERTED)
    names["env"].close()


def test_the_action_is_a_dataclass() -> None:
    made = run(ACTION_IMPORTS + ACTION)["UnifiedAction"]("tool", tool_name="add", tool_args={"a": 1})
    assert (made.action_type, made.code, made.tool_args, made.metadata) == ("tool", None, {"a": 1}, {})


def test_the_base_class_as_printed_and_ours(folder: Path) -> None:
    from oxenv import ToolEnabledEnvironment

    for made in (run(SUPPORT_IMPORTS + SUPPORT)["ToolEnabledEnvironment"], ToolEnabledEnvironment):
        assert made().get_available_tools() == []
        with made(str(folder.parent / "tools.yaml")) as env:
            assert [tool.name for tool in env.get_available_tools()] == TIME_TOOLS
        with pytest.raises(FileNotFoundError, match="there is no manifest nowhere.yaml"):
            made("nowhere.yaml")
