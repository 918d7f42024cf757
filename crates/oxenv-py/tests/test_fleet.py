"""Fleet as the design prints it, against the simulator: the instance is there while it is used, and gone
after."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator

import pytest

import oxenv
from conftest import eventually, finished, program
from harness.server import clean_environment
from oxenv import CallToolAction, FleetEnvClient, FleetMCPTools, ListToolsAction


@dataclass
class Fleet:
    url: str
    key: str

    @property
    def variables(self) -> dict[str, str]:
        return {"FLEET_BASE_URL": self.url, "FLEET_API_KEY": self.key, "FLEET_ENV_KEY": "fira"}

    @property
    def options(self) -> dict[str, str]:
        return {"base_url": self.url, "api_key": self.key, "env_key": "fira"}

    def asked(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def running(self) -> list[str]:
        """The instances that run or are about to."""
        instances = self.asked("/v1/env/instances")
        return [each["instance_id"] for each in instances if each["status"] in ("running", "pending")]


@contextmanager
def simulated(*flags: str) -> Iterator[Fleet]:
    command = [os.environ["OXENV_BIN"], "fleet", "simulate", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield Fleet(said["base_url"].rstrip("/"), said["api_key"])
        finally:
            process.terminate()
            assert process.wait(20) == 0


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with simulated() as fleet:
        yield fleet


AS_PRINTED = """
import asyncio, os
from oxenv import FleetEnvClient

async def main():
    # The user simply provides keys. No Docker required.
    orch, tools = FleetEnvClient.from_fleet(
        api_key=os.environ["FLEET_API_KEY"],
        env_key=os.environ["FLEET_ENV_KEY"]
    )

    # Orchestrator controls episode (HTTP)
    orch.reset()

    # Agent uses MCP tools (Browser + API)
    tools_list = await tools.list_tools()
    result = await tools.call_tool("computer", {"action": "screenshot"})
    print(sorted(tool.name for tool in tools_list), result.is_error, orch.state())

asyncio.run(main())
"""


def test_the_block_of_the_design(fleet: Fleet) -> None:
    out = finished(program(AS_PRINTED, **fleet.variables))
    assert "'computer'" in out and "False" in out and "step_count" in out
    # It closed nothing itself; the end of the process did, and waited for it.
    assert fleet.running() == []


def test_an_episode_over_the_bridge(fleet: Fleet) -> None:
    orch, tools = FleetEnvClient.from_fleet(**fleet.options)
    assert fleet.running() == [orch.instance_id] and orch.instance_url.startswith("http")
    with orch:
        assert orch.reset(seed=7).done is False
        listed = orch.step(ListToolsAction()).observation["metadata"]["tools"]
        assert {tool["name"] for tool in listed} == {tool.name for tool in tools.sync().list_tools()}
        shown = orch.step(CallToolAction("computer", {"action": "screenshot"}))
        assert shown.observation["metadata"].get("error") is None and shown.reward is None
        assert orch.state()["step_count"] == 2
        assert not orch.call_tool("computer", action="screenshot").is_error
        with pytest.raises(oxenv.Unsupported):
            orch.step({"action": "UP"})
        with pytest.raises(oxenv.Unsupported):
            orch.step(ListToolsAction(), key="k")
        listing = tools.sync().list()
        assert [conflict.owner in listing.endpoints[0].url for conflict in listing.conflicts] == [True]
        assert [endpoint.error for endpoint in listing.endpoints] == [None, None]
    assert fleet.running() == []
    with pytest.raises(oxenv.Closed):
        orch.reset()


def test_in_coroutines(fleet: Fleet) -> None:
    async def main() -> None:
        orch, tools = await FleetEnvClient.from_fleet_async(**fleet.options)
        async with orch:
            await orch.reset()
            assert (await orch.step(ListToolsAction())).done is False
            with pytest.raises(oxenv.ToolNotFound):
                await tools.call_tool("no_such_tool", {})
        await tools.close()

    asyncio.run(main())
    assert fleet.running() == []


def test_an_orchestrator_that_is_collected_deletes_its_instance(fleet: Fleet) -> None:
    orch, tools = FleetEnvClient.from_fleet(**fleet.options)
    assert len(fleet.running()) == 1
    del orch, tools
    gc.collect()
    eventually(lambda: not fleet.running())


MAKING = """
import os
from oxenv import FleetEnvClient
print("asking", flush=True)
FleetEnvClient.from_fleet()
"""


def test_ctrl_c_while_it_is_made_leaves_no_instance() -> None:
    with simulated("--delay", "1h") as fleet:
        process = program(MAKING, **fleet.variables)
        assert process.stdout is not None and process.stdout.readline() == "asking\n"
        eventually(lambda: fleet.running())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert "KeyboardInterrupt" in err and fleet.key not in err
        assert fleet.running() == []


def test_a_task_that_is_cancelled_while_it_is_made_leaves_no_instance() -> None:
    async def main(fleet: Fleet) -> None:
        task = asyncio.create_task(FleetEnvClient.from_fleet_async(**fleet.options))
        while not fleet.running():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with simulated("--delay", "1h") as fleet:
        asyncio.run(main(fleet))
        eventually(lambda: not fleet.running())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("create:401", oxenv.FleetUnauthorized),
        ("create:limit", oxenv.FleetInstanceLimit),
        ("create:400-region", oxenv.FleetRegionUnknown),
        ("create:pending-then-error", oxenv.FleetInstanceFailed),
    ],
)
def test_what_fleet_refuses(fault: str, error: type[oxenv.OxenvError]) -> None:
    with simulated("--fault", fault) as fleet:
        with pytest.raises(error) as refused:
            FleetEnvClient.from_fleet(**fleet.options, timeout_s=30)
        assert isinstance(refused.value, oxenv.FleetFailure) and fleet.key not in str(refused.value)
        assert fleet.running() == []


def test_keys_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEET_API_KEY", "FLEET_ENV_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(oxenv.InvalidOptions, match="FLEET_API_KEY"):
        FleetEnvClient.from_fleet()
    with pytest.raises(oxenv.InvalidOptions, match="from_fleet"):
        FleetEnvClient(base_url="http://127.0.0.1:1")


def test_tools_of_any_endpoints(serve: Any) -> None:
    url = f"{serve('echo').url}/mcp"
    gone = "http://127.0.0.1:9/mcp"

    async def main() -> None:
        async with FleetMCPTools(mcp_urls=[url, gone]) as tools:
            assert [tool.name for tool in await tools.list_tools()] == ["echo_message", "echo_with_length"]
            result = await tools.call_tool("echo_message", {"message": "hello"})
            assert result.structured_content == {"result": "hello"} and result.text == "hello"
            listing = await tools.list()
            assert listing.endpoints[0].error is None and listing.endpoints[1].error
            with pytest.raises(oxenv.InvalidArguments):
                await tools.call_tool("echo_message", {})
        async with FleetMCPTools(mcp_urls=[url, gone], strict=True) as strict:
            with pytest.raises(oxenv.EndpointUnavailable):
                await strict.list_tools()

    asyncio.run(main())
    waiting = FleetMCPTools(mcp_urls=[url]).sync()
    assert waiting.call_tool("echo_message", {"message": "x"}).text == "x"
    waiting.close()
    with pytest.raises(oxenv.InvalidOptions):
        FleetMCPTools(mcp_urls=[])
