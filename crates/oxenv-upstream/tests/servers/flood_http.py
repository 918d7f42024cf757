"""A small MCP server over Streamable HTTP that floods its client over its streams of events.

Standard library only. Arguments: what the flood is made of (`ping`, `list-changed`), and where it comes:
`news`, the stream of GET, or `call`, the stream that answers a call. Its first line on stdout is its port.
Answers of the client are read and never acknowledged.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHAT, WHERE = sys.argv[1], sys.argv[2]


def event(message):
    return f"data: {json.dumps({'jsonrpc': '2.0', **message})}\n\n".encode()


def chunk(base):
    if WHAT == "ping":
        return b"".join(event({"id": f"flood-{base + number}", "method": "ping"}) for number in range(1000))
    return event({"method": "notifications/tools/list_changed"}) * 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def flood(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        base = 0
        try:
            while True:
                self.wfile.write(chunk(base))
                base += 1000
        except OSError:
            self.close_connection = True

    def do_GET(self):
        if WHERE == "news":
            return self.flood()
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self):
        self.send_response(204)
        self.end_headers()

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, identifier = message.get("method"), message.get("id")
        if method is None:
            threading.Event().wait(600)
        if identifier is None:
            self.send_response(202)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if method == "tools/call" and WHERE == "call":
            return self.flood()
        body = json.dumps({"jsonrpc": "2.0", "id": identifier, "result": self.result(message)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if method == "initialize":
            self.send_header("Mcp-Session-Id", "flood")
        self.end_headers()
        self.wfile.write(body)

    def result(self, message):
        method = message["method"]
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            info, lists = {"name": "flood", "version": "0"}, {"tools": {"listChanged": True}}
            return {"protocolVersion": version, "capabilities": lists, "serverInfo": info}
        if method == "tools/list":
            return {"tools": [{"name": "flood", "inputSchema": {"type": "object"}}]}
        return {"content": [{"type": "text", "text": "done"}]}


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
