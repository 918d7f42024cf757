"""One exception class per code, with everything that the client knows."""

import copy
import pickle
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Iterator

import pytest

import oxenv
from oxenv import GenericEnvClient, OxenvError, _native


TOKEN = "right-right-right-right-right-right"


def classes(base: type[OxenvError] = OxenvError) -> Iterator[type[OxenvError]]:
    for subclass in base.__subclasses__():
        if subclass.code:
            yield subclass
        yield from classes(subclass)


def test_each_code_has_a_class_and_each_class_a_code() -> None:
    by_code = {cls.code: cls for cls in classes()}
    assert sorted(by_code) == sorted(_native.codes())
    for code, cls in by_code.items():
        assert cls.__name__ == "".join(part.capitalize() for part in code.split("_"))
        assert getattr(oxenv, cls.__name__) is cls and cls.__name__ in oxenv.__all__
        assert cls.__doc__


@pytest.mark.parametrize("cls", list(classes()), ids=lambda cls: cls.code)
def test_errors_can_be_pickled_and_copied(cls: type[OxenvError]) -> None:
    error = cls(
        "why", kind="timeout", delivered="yes", retryable=True, retry_after=1.5, phase="step", data={"a": [1]}
    )
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls and str(again) == "why" and vars(again) == vars(error)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionError) as refused:
        GenericEnvClient(base_url=f"http://127.0.0.1:{port}").reset()
    error = refused.value
    assert isinstance(error, oxenv.ConnectFailed)
    assert (error.code, error.delivered, error.retryable) == ("CONNECT_FAILED", "no", True)
    assert str(port) in str(error)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.mark.parametrize("protocol", ["auto", "http"])
def test_something_else_listens(protocol: str) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        try:
            with pytest.raises(OxenvError) as refused:
                GenericEnvClient(base_url=f"http://127.0.0.1:{page.server_port}", protocol=protocol).reset()
            assert refused.value.code == "NOT_A_SERVER"
        finally:
            page.shutdown()
            thread.join()


def test_no_tls_there(serve: Any) -> None:
    with pytest.raises(oxenv.TlsFailed):
        GenericEnvClient(base_url=serve("echo").url.replace("http:", "https:")).reset()


def test_a_wrong_token_is_refused_and_not_shown(serve: Any, tmp_path: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    url = serve("echo", "--control-token-file", str(tokens)).url
    with pytest.raises(oxenv.Unauthorized) as refused:
        GenericEnvClient(base_url=url, token="wrong-wrong-wrong").reset()
    assert "wrong-wrong" not in str(refused.value)
    with GenericEnvClient(base_url=url, token=TOKEN) as env:
        env.reset()


def test_the_server_refuses(serve: Any) -> None:
    url = serve("grid_world", "--max-sessions", "1").url
    with GenericEnvClient(base_url=url) as env:
        with pytest.raises(oxenv.OxenvError) as invalid:
            env.reset(seed=-1)
        assert isinstance(invalid.value, oxenv.ValidationError)
        env.reset()
        with pytest.raises(RuntimeError) as wrong:
            env.step({"action": "SIDEWAYS"})
        assert isinstance(wrong.value, oxenv.ServerError) and wrong.value.kind == "action"
        with pytest.raises(oxenv.CapacityReached) as full:
            GenericEnvClient(base_url=url, queue_s=0.01).reset()
        assert full.value.delivered == "no"
        assert env.step({"action": "DOWN"}).observation["x"] == 1


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"base_url": "ftp://x"},
        {"base_url": "x", "protocol": "gopher"},
        {"base_url": "x", "connect_timeout_s": -1},
    ],
)
def test_wrong_options(given: dict[str, Any]) -> None:
    with pytest.raises(oxenv.InvalidOptions):
        GenericEnvClient(**given).connect()
    with pytest.raises(oxenv.InvalidOptions):
        GenericEnvClient(base_url="x", provider=object())  # type: ignore[arg-type]


def test_what_json_cannot_say() -> None:
    env = GenericEnvClient(base_url="http://127.0.0.1:1")
    with pytest.raises(ValueError):
        env.step({"value": float("nan")})
    with pytest.raises(TypeError):
        env.step({"value": 1j})
