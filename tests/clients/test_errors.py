"""Each WebSocket error code, as raw frames and as a stock client sees it.

CAPACITY_REACHED is in test_capacity.py, EXECUTION_ERROR in test_production.py;
FACTORY_ERROR cannot be had from a bundled environment and is tested in Rust.
"""

import json

import pytest
from clients.stock import ask, call, closed_with, open_socket, run
from openenv.core import GenericEnvClient

STATE = {"type": "state"}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{bad", "INVALID_JSON"),
        ("", "INVALID_JSON"),
        ({"type": "bogus"}, "UNKNOWN_TYPE"),
        ({}, "UNKNOWN_TYPE"),
        ({"type": None}, "UNKNOWN_TYPE"),
    ],
)
def test_the_socket_stays_open_after_a_frame_that_is_no_request(serve, frame, code):
    server = serve("echo")
    with open_socket(server.url) as socket:
        error = ask(socket, frame)
        assert error["type"] == "error" and error["data"]["code"] == code
        assert error["data"]["message"]
        assert ask(socket, STATE)["type"] == "state"


@pytest.mark.parametrize(
    ("frame", "issue", "location"),
    [
        ({"type": "step"}, "missing", ["data"]),
        ({"type": "step", "data": {"type": "call_tool"}}, "missing", ["tool_name"]),
        ({"type": "step", "data": {"type": "bogus", "tool_name": "x"}}, "literal_error", ["type"]),
        (
            {"type": "step", "data": {"type": "list_tools"}, "request_id": "r"},
            "extra_forbidden",
            ["request_id"],
        ),
        ({"type": "reset", "data": []}, "dict_type", ["data"]),
        ({"type": "reset", "data": {"seed": -1}}, "greater_than_equal", ["data", "seed"]),
        ({"type": "state", "data": {}}, "extra_forbidden", ["data"]),
        ({"type": "close", "data": {}}, "extra_forbidden", ["data"]),
        ({"type": "mcp"}, "missing", ["data"]),
    ],
)
def test_validation_error_names_the_field_and_the_socket_stays_open(serve, frame, issue, location):
    server = serve("echo")
    with open_socket(server.url) as socket:
        error = ask(socket, frame)
        assert error["type"] == "error" and error["data"]["code"] == "VALIDATION_ERROR"
        (only,) = error["data"]["errors"]
        assert only["type"] == issue and only["loc"][-1] == location[-1]
        assert ask(socket, STATE)["type"] == "state"


@pytest.mark.parametrize("frame", ["[]", '"x"', "5", "null", b'{"type":"state"}'])
def test_session_error_ends_the_socket(serve, frame):
    server = serve("echo")
    with open_socket(server.url) as socket:
        error = ask(socket, frame)
        assert error["type"] == "error" and error["data"]["code"] == "SESSION_ERROR"
        assert closed_with(socket) == 1000


def test_session_error_for_an_unknown_session(serve):
    server = serve("echo")
    with open_socket(server.url, "/ws?session_id=nobody") as socket:
        error = json.loads(socket.recv(timeout=20))
        assert error["type"] == "error" and error["data"]["code"] == "SESSION_ERROR"
        assert closed_with(socket) == 1000


def test_close_ends_the_socket_without_a_reply(serve):
    server = serve("echo")
    with open_socket(server.url) as socket:
        socket.send('{"type": "close"}')
        assert closed_with(socket) == 1000


def test_python_json_dialect_gets_an_answer_and_leaves_the_session_alive(serve):
    """What `json.dumps` sends and strict JSON forbids."""
    server = serve("echo")
    oddities = ["NaN", "-Infinity", "1e999", "18446744073709551616000", '"\\ud800"', "[" * 2000 + "]" * 2000]
    with open_socket(server.url) as socket:
        for oddity in oddities:
            arguments = f'{{"message": {oddity}}}'
            step = f'{{"type": "call_tool", "tool_name": "echo_message", "arguments": {arguments}}}'
            frame = f'{{"type": "step", "data": {step}}}'
            reply = ask(socket, frame)
            assert reply["type"] in ("observation", "error"), oddity
        reply = ask(socket, {"type": "step", "data": call("echo_message", message="alive")})
        assert reply["type"] == "observation"


def test_stock_clients_raise_with_the_code_and_go_on(serve):
    server = serve("echo")

    async def session():
        async with GenericEnvClient(base_url=server.url) as env:
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                await env.step({"type": "call_tool"})
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                await env.reset(seed=-1)
            result = await env.step(call("echo_message", message="on"))
            assert result.observation["result"]["data"] == "on"

    run(session())
