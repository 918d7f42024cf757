"""A small MCP server over stdio that misbehaves as its first argument says. Standard library only."""

import json
import os
import sys
import threading
import time

MODE = sys.argv[1] if len(sys.argv) > 1 else "plain"
LOCK = threading.Lock()
ANSWERS = {}
CANCELLED = []
SEEN = []
COUNT = [0]
EXTRA = []


def send(message):
    line = json.dumps({"jsonrpc": "2.0", **message}) + "\n"
    with LOCK:
        sys.stdout.write(line)
        sys.stdout.flush()


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def tool(name, **more):
    return {"name": name, "inputSchema": {"type": "object"}, "description": None, **more}


def tools():
    if MODE == "thousand":
        return [tool(f"tool_{number}") for number in range(1000)]
    names = ["echo", "count", "die", "flood", "wait", "cancelled", "notes", "ask", "big", "rich", "where"]
    names += ["say", "change", "garbage", "refuse", "wrong", "fail", "seen", "close_output", "pid", "strange"]
    names += ["more", "nest"]
    return [tool(name) for name in names] + EXTRA


def page(cursor):
    everything = tools()
    if MODE != "pages":
        return {"tools": everything}
    start = int(cursor or 0)
    more = {"nextCursor": str(start + 3)} if start + 3 < len(everything) else {}
    return {"tools": everything[start : start + 3], **more}


def ask(method, params, identifier):
    ANSWERS[identifier] = (threading.Event(), [])
    send({"id": identifier, "method": method, "params": params})
    ANSWERS[identifier][0].wait(20)
    return ANSWERS[identifier][1][0]


def call(identifier, params):
    name, arguments = params["name"], params.get("arguments") or {}
    token = (params.get("_meta") or {}).get("progressToken")
    if name == "echo":
        return text(arguments.get("text", ""))
    if name == "seen":
        return text(json.dumps(SEEN[-1]))
    if name == "count":
        COUNT[0] += 1
        return text(str(COUNT[0]))
    if name == "die":
        sys.stderr.write("it hurts, " + os.environ.get("TOKEN", "no token") + "\n")
        sys.stderr.flush()
        os._exit(3)
    if name == "close_output":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        time.sleep(60)
    if name == "flood":
        for _ in range(2000):
            sys.stderr.write("x" * 500 + "\n")
        return text("dry")
    if name == "wait":
        while identifier not in CANCELLED:
            time.sleep(0.005)
        return text("late")
    if name == "cancelled":
        while not CANCELLED:
            time.sleep(0.005)
        return text(str(len(CANCELLED)))
    if name == "notes":
        for step in range(3):
            if token is not None:
                note = {"progressToken": token, "progress": step, "total": 3, "message": f"step {step}"}
                send({"method": "notifications/progress", "params": note})
            log = {"level": "warning", "logger": "odd", "data": {"step": step}}
            send({"method": "notifications/message", "params": log})
        return text("told" if token is not None else "untold")
    if name == "ask":
        parameters = {"messages": [], "maxTokens": 5, "unheard": True}
        return text(json.dumps(ask("sampling/createMessage", parameters, f"q{identifier}"), sort_keys=True))
    if name == "big":
        return text("y" * int(arguments["bytes"]))
    if name == "rich":
        return json.loads(RICH)
    if name == "where":
        return text(json.dumps({"cwd": os.getcwd(), "args": sys.argv[2:], "env": dict(os.environ)}))
    if name == "say":
        send({"method": arguments["method"]})
        return text("said")
    if name == "nest":
        # In the folder that it works in, by steps: the path soon is longer than a path may be.
        top = os.open(".", os.O_RDONLY)
        for _ in range(arguments["levels"]):
            os.mkdir("d")
            os.chdir("d")
        os.fchdir(top)
        os.close(top)
        return text("nested")
    if name == "change":
        EXTRA.append(tool("added"))
        send({"method": "notifications/tools/list_changed"})
        time.sleep(0.2)
        return text("changed")
    if name == "garbage":
        with LOCK:
            sys.stdout.write("hello\n{\"a\":\n[1,2]\n5\n{}\n\n")
            sys.stdout.flush()
        return text("clean")
    if name == "strange":
        return 5
    if name == "refuse":
        raise Refusal(-32000, "refused with " + os.environ.get("TOKEN", "no token"))
    if name == "wrong":
        raise Refusal(-32602, "wrong arguments")
    if name == "fail":
        return {**text("failed"), "isError": True}
    if name == "pid":
        return text(str(os.getpid()))
    if name == "more":
        return {"resultType": "input_required", "inputRequests": {}, "requestState": "abc"}
    raise Refusal(-32602, f"Unknown tool: {name}")


RICH = """{"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png", "later": 1.50},
 {"type": "audio", "data": "BBBB", "mimeType": "audio/wav", "annotations": {"priority": 0.5}},
 {"type": "resource", "resource": {"uri": "a:b", "text": "t", "mimeType": "text/plain"}},
 {"type": "resource_link", "uri": "c:d", "name": "n"}, {"type": "hologram", "depth": 3}],
 "structuredContent": {"n": 12345678901234567890, "f": 1.0}, "_meta": {"trace": "x"}}""".replace("\n", "")


class Refusal(Exception):
    pass


def handle(message):
    method, identifier, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method is None:
        waiting = ANSWERS.get(identifier)
        if waiting:
            waiting[1].append(message.get("result", message.get("error")))
            waiting[0].set()
        return
    if method == "notifications/cancelled":
        CANCELLED.append(params.get("requestId"))
    if identifier is None:
        return
    SEEN.append(params)
    try:
        send({"id": identifier, "result": answer(method, identifier, params)})
    except Refusal as refusal:
        send({"id": identifier, "error": {"code": refusal.args[0], "message": refusal.args[1]}})


def answer(method, identifier, params):
    if method == "initialize":
        if MODE == "hang":
            time.sleep(600)
        if MODE == "refusing":
            raise Refusal(-32601, "no such method")
        lists = {"tools": {"listChanged": True}, "resources": {}, "prompts": {}, "logging": {}}
        version = "2024-11-05" if MODE == "old" else params["protocolVersion"]
        info = {"name": "odd", "version": "0"}
        return {"protocolVersion": version, "capabilities": lists, "serverInfo": info}
    if method == "tools/list":
        if MODE == "listless":
            raise Refusal(-32603, "no list today")
        if MODE == "dies_listing":
            os._exit(4)
        return page(params.get("cursor"))
    if method == "tools/call":
        return call(identifier, params)
    if method == "resources/list":
        return {"resources": [{"uri": "odd:one", "name": "one", "later": 1}]}
    if method == "resources/templates/list":
        return {"resourceTemplates": [{"uriTemplate": "odd:{x}", "name": "any"}]}
    if method == "prompts/list":
        raise Refusal(-32601, "no prompts after all")
    if method == "resources/read":
        return {"contents": [{"uri": params["uri"], "text": "one", "later": 1.50}]}
    raise Refusal(-32601, f"no {method}")


def main():
    if MODE == "crash":
        sys.stderr.write("cannot work with " + os.environ.get("TOKEN", "no token") + "\n")
        sys.exit(7)
    if MODE == "once":
        # Works the first time only.
        if os.path.exists(sys.argv[2]):
            sys.exit(9)
        open(sys.argv[2], "w").close()
    if MODE == "flooding":
        threading.Thread(
            target=lambda: [sys.stderr.write("z" * 1000 + "\n") for _ in range(100000)], daemon=True
        ).start()
    if MODE == "printing":
        print("Welcome to my server!", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        threading.Thread(target=handle, args=(message,), daemon=True).start()
    if MODE == "slow_exit":
        time.sleep(30)


main()
