"""Messages of the size that stock clients allow, and one beyond it."""

import pytest
import websockets
from clients.stock import call, open_socket, run
from harness.plain_http import get
from openenv.core import GenericEnvClient

# A client's default limit is 100 MiB for a frame; the request adds a few bytes.
LARGE = 99_000_000


def test_99_megabytes_and_back(serve):
    """The reply holds the text three times: content, structured content and data."""
    server = serve("echo")
    message = "0123456789" * (LARGE // 10)

    async def session():
        client = GenericEnvClient(base_url=server.url, max_message_size_mb=400, message_timeout_s=240)
        async with client as env:
            await env.reset()
            result = (await env.step(call("echo_message", message=message))).observation["result"]
            assert result["data"] == message
            assert result["structured_content"]["result"] == message
            assert result["content"][0]["text"] == message
            small = await env.step(call("echo_message", message="small"))
            assert small.observation["result"]["data"] == "small"

    run(session(), timeout_s=300)


def test_a_frame_beyond_the_limit_ends_its_socket_only(serve):
    server = serve("echo")
    with open_socket(server.url) as other:
        with open_socket(server.url) as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                socket.send(b" " * 110 * 1024 * 1024, text=True)
                socket.recv(timeout=60)
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        other.send('{"type": "state"}')
        assert "step_count" in other.recv(timeout=20)
    assert get(f"{server.url}/health").json() == {"status": "healthy"}
