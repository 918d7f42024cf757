"""Stock MCP clients of three SDKs: Python's `mcp`, `fastmcp`, and TypeScript's.

Entry points: `python_sdk`, `fastmcp_client`, `typescript`. Results are MCP's JSON, as the SDK understood it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Sequence

from fastmcp import Client as FastClient
from mcp import Client

from harness.components import NODE_FOLDER, node
from harness.server import clean_environment

TIMEOUT_S = 60.0
SCRIPT = Path(__file__).resolve().parents[1] / "node" / "client.mjs"


def python_sdk(server: Any, **options: Any) -> Client:
    """The client of `mcp`; it finds out the newest revision that both sides speak."""
    return Client(server, read_timeout_seconds=TIMEOUT_S, **options)


def fastmcp_client(url: str) -> FastClient:
    return FastClient(url, timeout=TIMEOUT_S)


def as_json(model: Any) -> Any:
    """A pydantic model of an SDK as the JSON it was read from."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def typescript(url: str, operations: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """What the TypeScript SDK's client makes of these operations; see node/client.mjs."""
    finished = subprocess.run(
        [str(node()), str(SCRIPT), str(NODE_FOLDER), url],
        input=json.dumps(operations),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=clean_environment(),
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)
