"""A search engine for web_search.yaml: an MCP server over HTTP that knows four pages and asks for a key.

    pip install mcp
    WEB_SEARCH_KEY=secret python web_search_server.py 8900
"""

import os
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

PAGES = {
    "https://example.invalid/rust": "Rust is a language for programs that are fast and do not crash.",
    "https://example.invalid/rewards": "A reward tells a learning agent how good its last action was.",
    "https://example.invalid/mcp": "The Model Context Protocol gives tools to agents over JSON-RPC.",
    "https://example.invalid/grid": "A grid world is an environment in which an agent walks on squares.",
}


class Hit(BaseModel):
    """One page that was found."""

    url: str
    snippet: str


server = MCPServer("web_search")


@server.tool()
def web_search(query: str, count: int = 3) -> list[Hit]:
    """Search the web: the pages that hold a word of the query, those with most of them first."""
    words = query.lower().split()
    found = {url: sum(word in text.lower() for word in words) for url, text in PAGES.items()}
    best = sorted((url for url, words_in in found.items() if words_in), key=lambda url: -found[url])
    return [Hit(url=url, snippet=PAGES[url]) for url in best[:count]]


def with_key(app: ASGIApp, key: str) -> ASGIApp:
    """Refuses requests without the key."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and dict(scope["headers"]).get(b"authorization") != f"Bearer {key}".encode()
        ):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"the key is missing or wrong"})
            return
        await app(scope, receive, send)

    return guarded


if __name__ == "__main__":
    app = with_key(server.streamable_http_app(), os.environ["WEB_SEARCH_KEY"])
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8900, log_level="warning"
    )
