"""One call through each door, told in one form: what the spellings differ in is undone here.

Entry point: `DOORS`. An `Answer` compares equal when content, structured content and failure do.
"""

from dataclasses import dataclass
from typing import Any, Callable

from harness.mcp_raw import stateless
from harness.plain_http import post, rpc


@dataclass(frozen=True)
class Answer:
    """A tool's result as MCP has it."""

    content: list[dict[str, Any]]
    structured: Any
    is_error: bool

    @property
    def text(self) -> str:
        return "\n".join(block["text"] for block in self.content if block["type"] == "text")

    @staticmethod
    def of_mcp(result: dict[str, Any]) -> "Answer":
        """From MCP's own JSON, where absent and null mean the same."""
        content = [
            {key: value for key, value in block.items() if value is not None} for block in result["content"]
        ]
        return Answer(content, result.get("structuredContent"), result.get("isError") or False)


def step(url: str, action: dict[str, Any]) -> dict[str, Any]:
    """The whole reply to one step of the default session."""
    reply = post(f"{url}/step", {"action": action}, timeout_s=60.0)
    assert reply.status == 200, (reply.status, reply.body)
    return reply.json()


def stock(url: str, name: str, arguments: dict[str, Any]) -> Answer:
    observation = step(url, {"type": "call_tool", "tool_name": name, "arguments": arguments})["observation"]
    assert observation["tool_name"] == name and observation["error"] is None, observation
    return _of_dialect(observation["result"])


def unified(url: str, name: str, arguments: dict[str, Any]) -> Answer:
    observation = step(url, {"action_type": "tool", "tool_name": name, "tool_args": arguments})["observation"]
    answer = _of_dialect(observation["result"])
    assert observation["error"] is None and observation["stdout"] == answer.text, observation
    return answer


def dialect(url: str, name: str, arguments: dict[str, Any]) -> Answer:
    reply = rpc(url, "tools/call", {"name": name, "arguments": arguments})
    assert "result" in reply, reply["error"]
    return _of_dialect(reply["result"])


def newest_mcp(url: str, name: str, arguments: dict[str, Any]) -> Answer:
    reply = stateless(f"{url}/mcp", "tools/call", {"name": name, "arguments": arguments})
    assert "result" in reply, reply["error"]
    return Answer.of_mcp(reply["result"])


def journal(url: str, name: str, arguments: dict[str, Any]) -> Any:
    """The journal's spelling gives the result's data alone."""
    action = {"type": "CallToolAction", "tool_name": name, "parameters": arguments}
    metadata = step(url, action)["observation"]["metadata"]
    assert metadata.get("error") is None, metadata
    return metadata["result"]


DOORS: dict[str, Callable[[str, str, dict[str, Any]], Answer]] = {
    "step, stock": stock,
    "step, unified": unified,
    "mcp, dialect": dialect,
    "mcp, 2026-07-28": newest_mcp,
}


def _of_dialect(result: dict[str, Any]) -> Answer:
    renamed = {"content": result["content"], "structuredContent": result["structured_content"]}
    return Answer.of_mcp(renamed | {"isError": result["is_error"]})
