"""A simulator over stdio that is told its seed at its start, as the tools RFC's are: FastMCP of the Python
SDK."""

import os
import random

from mcp.server.fastmcp import FastMCP

seed = os.environ["SIMULATOR_SEED"]
generator = random.Random(seed)
server = FastMCP("simulator")


@server.tool()
def told() -> str:
    """The seed that it was told."""
    return seed


@server.tool()
def draw() -> str:
    """The next number of its world."""
    return str(generator.randrange(10**9))


server.run()
