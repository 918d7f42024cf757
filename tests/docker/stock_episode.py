"""A program of a stock OpenEnv user, run by the Python of either version: an episode in a container of
echo-env.

Prints one JSON object: what the episode saw, and how long the client took to stop its container.
"""

import asyncio
import inspect
import json
import subprocess
import time

from openenv.core import GenericEnvClient


async def result_of(outcome):
    """0.2.3 starts the container in a coroutine, 0.10.0 in something that can be awaited."""
    return await outcome if inspect.isawaitable(outcome) else outcome


def containers() -> list[str]:
    return subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, check=True).stdout.split()


async def main() -> None:
    env = await result_of(GenericEnvClient.from_docker_image("echo-env:latest", env_vars={"OXENV_SEED": "7"}))
    while_it_ran = len(containers())
    reset = await env.reset()
    said = []
    for message in ("one", "zwei"):
        action = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": message}}
        said.append((await env.step(action)).observation["result"]["data"])
    state = await env.state()
    begun = time.monotonic()
    await env.close()
    took = time.monotonic() - begun
    seen = {"ready": reset.observation, "said": said, "steps": state["step_count"], "ran": while_it_ran}
    print(json.dumps(seen | {"stop_s": took, "left": len(containers())}))


asyncio.run(main())
