"""Loads folders with the worker's own code and plays a step in each: `load_shapes.py WORKER FOLDERS.json`.

Each is loaded in a forked child, so that openenv is imported once for all of them. What is found is printed
as JSON, by the folder's name.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import openenv.core.env_server.http_server  # noqa: F401


def load_worker(path):
    spec = importlib.util.spec_from_file_location("worker", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = module
    spec.loader.exec_module(module)
    return module


def play(worker, request):
    hosted = worker.Hosted(request)
    described = hosted.describe()
    session = worker.Session(hosted, None, worker.generators())
    answers = {}
    for name, arguments in (
        ("create", {"seed": 1}),
        ("reset", {"seed": 1, "arguments": {}, "episode_id": "e"}),
        ("step", {"action": {"word": "two"}}),
    ):
        answers[name] = json.loads(session.answer(name, arguments))
    return {"title": described["title"], "notes": described["notes"], **answers}


def main():
    worker = load_worker(sys.argv[1])
    found = {}
    for request in json.loads(Path(sys.argv[2]).read_text()):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.chdir(request["folder"])
            os.dup2(2, 1)
            reply = worker.loaded_reply(lambda: play(worker, request))  # noqa: B023
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(reply)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            found[Path(request["folder"]).name] = json.loads(pipe.read())
        os.wait()
    print(json.dumps(found))


main()
