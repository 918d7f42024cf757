"""The Task API of an environment in Python: every answer is the stock server's."""

import json
import urllib.error
import urllib.request

import pytest
from clients.stock import newest_only
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import Action, Observation

QUESTIONS = [
    ("GET", "splits", None),
    ("POST", "tasks", {"split": "train"}),
    ("POST", "num_tasks", {"split": "easy"}),
    ("POST", "task", {"split": "train", "index": 0}),
    ("POST", "task", {"split": "train", "index": -1}),
    ("POST", "task", {"split": "train", "index": 5}),
    ("POST", "task_range", {"split": "train"}),
    ("POST", "task_range", {"split": "train", "start": 1, "stop": 3}),
    ("POST", "task_range", {"split": "train", "start": -2}),
    ("POST", "task_range", {"split": "train", "start": 9}),
]


def ask(url, method, body):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def stock(monkeypatch):
    """Asks the stock server of an environment in tasks.py."""
    from fastapi.testclient import TestClient

    from hosted.conftest import ENVIRONMENTS

    monkeypatch.syspath_prepend(str(ENVIRONMENTS))
    import tasks

    def asked(name, method, path, body):
        app = create_app(getattr(tasks, name), Action, Observation, env_name=name)
        client = TestClient(app, raise_server_exceptions=False)
        reply = client.request(method, f"/{name}/{path}", json=body)
        return reply.status_code, reply.json()

    return asked


@newest_only("the older stock server has no Task API")
def test_every_answer_is_the_stock_servers(host, stock):
    server = host("tasks:Tasks")
    (name,) = ask(server.url + "/list_environments", "GET", None)[1]
    for method, path, body in QUESTIONS:
        wanted = stock("Tasks", method, path, body)
        status, given = ask(f"{server.url}/{name}/{path}", method, body)
        if path == "tasks":
            assert given.pop("env_name") == name and wanted[1].pop("env_name") == "Tasks"
        assert (status, given) == wanted, (path, body)


@newest_only("the older stock server has no Task API")
def test_a_method_that_is_not_there_is_not_supported(host, stock):
    server = host("tasks:Partly")
    (name,) = ask(server.url + "/list_environments", "GET", None)[1]
    for method, path, body in [
        ("GET", "splits", None),
        ("POST", "num_tasks", {"split": "train"}),
        ("POST", "task", {"split": "train", "index": 0}),
    ]:
        assert ask(f"{server.url}/{name}/{path}", method, body) == stock("Partly", method, path, body), path


def test_a_question_that_fails_says_why_and_leaves_the_server_as_it_was(host):
    server = host("tasks:Tasks")
    (name,) = ask(server.url + "/list_environments", "GET", None)[1]
    status, said = ask(f"{server.url}/{name}/num_tasks", "POST", {"split": "broken"})
    assert status == 500 and "made to fail" in json.dumps(said)
    assert ask(f"{server.url}/{name}/num_tasks", "POST", {"split": "easy"}) == (200, {"num_tasks": 2})
