"""A socket attached to a session that HTTP made: one session, two doors, the last socket wins."""

import pytest
import websockets
from clients.stock import ask, call, closed_with, open_socket
from harness.plain_http import exchange, get, post, rpc

STATE = {"type": "state"}


def create(server) -> str:
    return rpc(server.url, "openenv/session/create")["result"]["session_id"]


def call_over_http(server, session: str, message: str) -> dict:
    return rpc(
        server.url,
        "tools/call",
        {"session_id": session, "name": "echo_message", "arguments": {"message": message}},
    )


def test_socket_and_http_see_one_session(serve):
    server = serve("echo")
    session = create(server)
    assert call_over_http(server, session, "before")["result"]["data"] == "before"
    with open_socket(server.url, f"/ws?session_id={session}") as socket:
        assert ask(socket, STATE)["data"]["step_count"] == 1
        ask(socket, {"type": "reset", "data": {"episode_id": "mine"}})
        assert call_over_http(server, session, "between")["result"]["data"] == "between"
        ask(socket, {"type": "step", "data": call("echo_message", message="step")})
        assert ask(socket, STATE)["data"] == {"episode_id": "mine", "step_count": 2}
    # The session belongs to whoever created it, so the socket's end leaves it alone.
    assert call_over_http(server, session, "after")["result"]["data"] == "after"
    closed = rpc(server.url, "openenv/session/close", {"session_id": session})
    assert closed["result"] == {"session_id": session, "closed": True}
    assert call_over_http(server, session, "gone")["error"]["code"] == -32602


def test_the_last_attach_wins(serve):
    server = serve("echo", "--max-sessions", "1", "--queue-timeout", "0s")
    session = create(server)
    with open_socket(server.url, f"/ws?session_id={session}") as old:
        ask(old, {"type": "reset", "data": {"episode_id": "mine"}})
        ask(old, {"type": "step", "data": call("echo_message", message="x")})
        with open_socket(server.url, f"/ws?session_id={session}") as new:
            assert ask(new, STATE)["data"] == {"episode_id": "mine", "step_count": 1}
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    old.recv(timeout=20)
            assert ask(new, STATE)["data"]["step_count"] == 1


def test_closing_waits_for_the_attached_socket(serve):
    server = serve("echo")
    session = create(server)
    with open_socket(server.url, f"/ws?session_id={session}") as socket:
        assert ask(socket, STATE)["type"] == "state"
        closing = rpc(server.url, "openenv/session/close", {"session_id": session})
        assert closing["result"] == {"session_id": session, "closed": False, "closing": True}
        socket.send('{"type": "close"}')
        assert closed_with(socket) == 1000
    assert call_over_http(server, session, "gone")["error"]["code"] == -32602


def test_a_socket_may_not_close_its_own_session_by_method(serve):
    server = serve("echo")
    with open_socket(server.url, "/mcp") as socket:
        made = ask(socket, {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"})["result"][
            "session_id"
        ]
        refused = ask(
            socket,
            {"jsonrpc": "2.0", "id": 2, "method": "openenv/session/close", "params": {"session_id": made}},
        )
        assert refused["error"]["code"] == -32600
        assert "tools" in ask(socket, {"jsonrpc": "2.0", "id": 3, "method": "tools/list"})["result"]


def test_sessions_made_over_http(serve):
    """`POST /sessions` and its routes; a socket attaches to such a session as well."""
    server = serve("grid_world")
    made = post(f"{server.url}/sessions", {"seed": 1, "episode_id": "made"})
    assert made.status == 201
    document = made.json()
    assert set(document) == {"session_id", "mcp_url", "agent_token"} and document["agent_token"] is None
    session = f"{server.url}/sessions/{document['session_id']}"
    assert document["mcp_url"].endswith(f"/sessions/{document['session_id']}/mcp")
    assert get(session).status == 200
    assert post(f"{session}/reset", {}).json()["observation"]["x"] == 0
    assert post(f"{session}/step", {"action": {"action": "DOWN"}}).json()["observation"]["x"] == 1
    assert get(f"{session}/state").json()["step_count"] == 1
    with open_socket(server.url, f"/ws?session_id={document['session_id']}") as socket:
        moved = ask(socket, {"type": "step", "data": {"action": "DOWN"}})
        assert moved["data"]["observation"]["x"] == 2
    assert get(f"{session}/state").json()["step_count"] == 2
    assert exchange("DELETE", session).status in (200, 204)
    # Gone, or never heard of: a typed refusal either way.
    assert get(session).status in (404, 410)
    assert post(f"{session}/step", {"action": {"action": "DOWN"}}).status in (404, 410)
    # The default session never saw any of it.
    assert get(f"{server.url}/state").json()["step_count"] == 0


def test_tools_of_a_session_made_over_http(serve):
    server = serve("echo")
    session = post(f"{server.url}/sessions", {}).json()["session_id"]
    arguments = {"name": "echo_message", "arguments": {"message": "agent"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
    reply = post(f"{server.url}/sessions/{session}/mcp", request).json()
    assert reply["result"]["data"] == "agent"
    assert get(f"{server.url}/sessions/{session}/state").json()["step_count"] == 1


def test_ready(serve):
    assert get(f"{serve('echo').url}/ready").status == 200
