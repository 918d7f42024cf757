"""One episode, two doors: training code resets and steps it, an agent calls its tools over MCP.

    oxenv serve echo
    pip install openenv
    python demo.py http://127.0.0.1:8000

Both clients are stock: OpenEnv's own for training code, the MCP Python SDK's (which OpenEnv installs) for the
agent.
"""

import asyncio
import sys

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from openenv.core import GenericEnvClient


async def agent(mcp_url: str) -> None:
    """It knows one address, the session's MCP endpoint, and sees neither rewards nor resets."""
    async with streamablehttp_client(mcp_url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = (await session.list_tools()).tools
        print("agent: tools are", ", ".join(tool.name for tool in tools))
        for message in ("Hello MCP!", "Hello again!"):
            result = await session.call_tool("echo_message", {"message": message})
            print("agent: the environment says", repr(result.content[0].text))


def main(server: str) -> None:
    session = httpx.post(f"{server}/sessions", json={"episode_id": "demo"}).json()
    # The `&` keeps the path that the client appends out of the session's id.
    attached = f"{server}/ws?session_id={session['session_id']}&"
    with GenericEnvClient(base_url=attached).sync() as env:
        env.reset(seed=7, episode_id="demo")
        print("trainer: episode", env.state()["episode_id"], "has begun")

        asyncio.run(agent(session["mcp_url"]))
        print("trainer: the agent took", env.state()["step_count"], "steps")

        last = env.step({
            "type": "call_tool",
            "tool_name": "echo_with_length",
            "arguments": {"message": "mine"},
        })
        print("trainer: my own step gave", last.observation["result"]["data"], "and the reward", last.reward)
        print("trainer: together that is", env.state()["step_count"], "steps of one episode")
    httpx.delete(f"{server}/sessions/{session['session_id']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
