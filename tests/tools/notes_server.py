"""An MCP server over Streamable HTTP that keeps a note for each of its sessions: FastMCP of the Python SDK.

Usage: notes_server.py PORT
"""

import sys
from weakref import WeakKeyDictionary

from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("notes", host="127.0.0.1", port=int(sys.argv[1]))
notes: WeakKeyDictionary = WeakKeyDictionary()


@server.tool()
def keep(note: str, context: Context) -> str:
    """Keeps a note for this session."""
    notes[context.session] = note
    return "kept"


@server.tool()
def read(context: Context) -> str:
    """Reads the note of this session."""
    return notes.get(context.session, "nothing")


server.run(transport="streamable-http")
