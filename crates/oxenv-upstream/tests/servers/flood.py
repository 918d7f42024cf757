"""A small MCP server over stdio that floods its client. Standard library only.

Arguments: when the flood begins (`greeting`, `listing` or `call`), what it is made of, and, if there is
a third, `reads` for a server that goes on reading its input during the flood.
"""

import json
import os
import sys
import threading
import time

WHEN, WHAT = sys.argv[1], sys.argv[2]
READS = sys.argv[3:] == ["reads"]
BEGUN = threading.Event()
LOCK = threading.Lock()
REFUSED = []


def line(message):
    return (json.dumps({"jsonrpc": "2.0", **message}) + "\n").encode()


def send(message):
    write(line(message))


def write(data):
    with LOCK:
        while data:
            data = data[os.write(1, data) :]


def request(method, number, **params):
    return line({"id": f"flood-{number}", "method": method, **({"params": params} if params else {})})


def note(method, **params):
    return line({"method": method, "params": params})


def sampling(number):
    content = {"type": "text", "text": "x" * 2000}
    messages = [{"role": "user", "content": content}]
    return request("sampling/createMessage", number, messages=messages, maxTokens=9)


def log(size):
    return note("notifications/message", level="error", data="x" * size)


def chunk(base):
    """Some messages; `base` numbers the requests among them."""
    numbers = range(base, base + 1000)
    if WHAT == "ping":
        return b"".join(request("ping", number) for number in numbers)
    if WHAT == "unknown":
        return b"".join(request("what/is/this", number, text="x" * 500) for number in numbers)
    if WHAT == "roots":
        return b"".join(request("roots/list", number) for number in numbers)
    if WHAT == "sampling":
        return b"".join(sampling(number) for number in numbers)
    if WHAT == "same-id":
        return request("sampling/createMessage", 0, messages=[], maxTokens=9) * 1000
    if WHAT == "withdrawn":
        cancelled = [note("notifications/cancelled", requestId=f"flood-{number}") for number in numbers]
        return b"".join(sampling(number) + cancel for number, cancel in zip(numbers, cancelled))
    if WHAT == "long-method":
        return request("x" * (4 << 20), base)
    if WHAT == "long-id":
        return line({"id": "x" * (4 << 20), "method": "ping"})
    if WHAT == "progress":
        return note("notifications/progress", progressToken=7, progress=1, message="x" * 300) * 1000
    if WHAT == "log":
        return log(300) * 1000
    if WHAT == "long-log":
        return log(6 << 20)
    if WHAT == "list-changed":
        return note("notifications/tools/list_changed") * 1000
    if WHAT == "unknown-note":
        return note("notifications/what/is/this", text="x" * 300) * 1000
    if WHAT == "batch":
        return b"[" + b",".join([b'{"method":"notifications/x"}'] * 2_000_000) + b"]\n"
    raise SystemExit(f"no flood of {WHAT}")


def flood():
    same, base = WHAT not in ("ping", "unknown", "roots", "sampling", "withdrawn"), 0
    data = chunk(base)
    while True:
        write(data)
        if READS:
            # Else the other thread would never get the lock.
            time.sleep(0.01 if WHAT == "list-changed" else 0.0005)
        if not same:
            base += 1000
            data = chunk(base)


def burst(count):
    """Asks many questions at once; gives how many of them were refused."""
    REFUSED.clear()
    write(b"".join(sampling(number) for number in range(count)))
    while len(REFUSED) < count - 256:
        time.sleep(0.01)
    return str(len(REFUSED))


def endless():
    """Pages of a list that has no end."""
    tool = {"inputSchema": {}, "description": "x" * 20_000}
    return {"tools": [{"name": f"tool-{number}", **tool} for number in range(1000)]}


def answer(message):
    method, identifier = message.get("method"), message.get("id")
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        capabilities = {"tools": {"listChanged": True}, "logging": {}}
        info = {"name": "flood", "version": "0"}
        return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
    if method == "tools/list" and WHAT == "pages":
        page = int((message.get("params") or {}).get("cursor") or 0)
        return {**endless(), "nextCursor": str(page + 1)}
    if method == "tools/list":
        return {"tools": [{"name": "flood", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": "done"}]}
    print(f"asked for {method} {identifier}", file=sys.stderr, flush=True)
    return {}


def begins(message):
    methods = {"greeting": "initialize", "listing": "tools/list", "call": "tools/call"}
    return message.get("method") == methods[WHEN]


def main():
    listings = 0
    for text in sys.stdin:
        message = json.loads(text)
        if "error" in message:
            REFUSED.append(message["error"]["message"])
        if "method" not in message or "id" not in message:
            continue
        listings += message["method"] == "tools/list"
        if begins(message) and WHAT not in ("pages", "burst") and not BEGUN.is_set():
            BEGUN.set()
            if not READS:
                flood()
            threading.Thread(target=flood, daemon=True).start()
        result = answer(message)
        if message["method"] == "tools/call":
            if WHAT == "burst":
                threading.Thread(target=call, args=(message["id"], result)).start()
                continue
            result["content"][0]["text"] = str(listings)
            if WHAT != "list-changed":
                time.sleep(2)
        send({"id": message["id"], "result": result})


def call(identifier, result):
    # Fewer refusals than answers may wait, however slowly they are read.
    result["content"][0]["text"] = burst(1200)
    send({"id": identifier, "result": result})


main()
