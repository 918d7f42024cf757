"""fastmcp 4.1.6 serving an echo tool over Streamable HTTP: stateless, with JSON replies, on uvicorn.

These are the settings in which it answers the most requests: no session, no event stream.
"""

import argparse

import uvicorn
from fastmcp import FastMCP

mcp = FastMCP("echo")


@mcp.tool
def echo_message(message: str) -> str:
    """Echo back the provided message."""
    return message


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    app = mcp.http_app(path="/mcp", stateless_http=True, json_response=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning", access_log=False)
