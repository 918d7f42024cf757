"""The layouts and applications that public environments have; each is loaded by the worker itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WORKER = TESTS.parent.parent / "crates/oxenv-host/src/worker.py"

MODELS = """
from openenv.core.env_server.types import Action, Observation

class Say(Action):
    word: str

class Heard(Observation):
    words: list[str] = []
"""
ENVIRONMENT = """
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

class Words(Environment):
    def __init__(self, first="one"):
        super().__init__()
        self.words = [first]

    def reset(self, seed=None, episode_id=None, **_):
        self.words = self.words[:1]
        return Heard(words=self.words)

    def step(self, action, timeout_s=None, **_):
        self.words.append(action.word)
        return Heard(words=self.words, reward=1.0)

    @property
    def state(self):
        return State()
"""
CREATE = "from openenv.core.env_server import create_app\n"
MAKE = "app = create_app(Words, Say, Heard, env_name='words')\n"
WHOLE = MODELS + ENVIRONMENT + CREATE
MAIN = """
def main(host="0.0.0.0", port=8000):
    import uvicorn
    uvicorn.run({app}, host=host, port=port)
"""

# What a folder holds, and the application that its manifest names.
SHAPES = {
    "absolute_env": (
        "absolute_env.server.app:app",
        {
            "models.py": MODELS,
            "server/app.py": "from absolute_env.models import Heard, Say\n" + ENVIRONMENT + CREATE + MAKE,
        },
    ),
    "named_by_its_project": (
        "project_env.server.app:app",
        {
            "pyproject.toml": '[project]\nname = "openenv-project-env"\nversion = "1.2"\n',
            "models.py": MODELS,
            "server/app.py": "from project_env.models import Heard, Say\n" + ENVIRONMENT + CREATE + MAKE,
        },
    ),
    "from_the_root_env": (
        "envs.from_the_root_env.server.app:app",
        {
            "models.py": MODELS,
            "server/app.py": "from ..models import Heard, Say\n" + ENVIRONMENT + CREATE + MAKE,
        },
    ),
    "under_src": (
        "inner_env.server.app:app",
        {
            "src/inner_env/__init__.py": "",
            "src/inner_env/models.py": MODELS,
            "src/inner_env/server/app.py": "from ..models import Heard, Say\n" + ENVIRONMENT + CREATE + MAKE,
        },
    ),
    "src_in_the_name": (
        "src.server.app:app",
        {
            "src/models.py": MODELS,
            "src/server/app.py": "from src.models import Heard, Say\n" + ENVIRONMENT + CREATE + MAKE,
        },
    ),
    "made_by_a_function": (
        "server.app:create_application",
        {"server/app.py": WHOLE + "def create_application():\n    return create_app(Words, Say, Heard)\n"},
    ),
    "named_by_a_function_that_serves": (
        "server.app:main",
        {"server/app.py": WHOLE + MAKE + MAIN.format(app="app")},
    ),
    "served_by_its_name": (
        "server.app:main",
        {"server/app.py": WHOLE + MAKE + MAIN.format(app="'server.app:app'")},
    ),
    "lazy": (
        "server:app",
        {
            "server/__init__.py": (
                "def __getattr__(name):\n"
                "    if name != 'app':\n"
                "        raise AttributeError(name)\n"
                "    from .app import app\n"
                "    return app\n"
            ),
            "server/app.py": WHOLE + MAKE,
        },
    ),
    "names_nothing": (None, {"server/app.py": WHOLE + MAKE}),
    "names_nothing_main": (None, {"main.py": WHOLE + MAKE}),
    "own_openenv_folder": (
        "server.app:app",
        {"openenv/__init__.py": "raise ImportError('the wrong openenv')", "server/app.py": WHOLE + MAKE},
    ),
    "asks_for_its_version": (
        "server.app:app",
        {
            "pyproject.toml": '[project]\nname = "My_Own-env"\nversion = "3.1"\n',
            "server/app.py": (
                "import importlib.metadata\nassert importlib.metadata.version('my-own-env') == '3.1'\n"
                "assert importlib.metadata.version('pydantic')\n" + WHOLE + MAKE
            ),
        },
    ),
    "shared_instance": (
        "server.app:app",
        {"server/app.py": WHOLE + "one = Words()\napp = create_app(lambda: one, Say, Heard)\n"},
    ),
    "partial": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + "import functools\napp = create_app(functools.partial(Words, first='uno'), Say, Heard)\n"
        },
    ),
    "more_arguments": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + "from openenv.core.env_server.types import ConcurrencyConfig\n"
            + "def make():\n    return Words()\n"
            + "make.SUPPORTS_CONCURRENT_SESSIONS = True\n"
            + "app = create_app(make, Say, Heard,\n"
            + "    concurrency_config=ConcurrencyConfig(max_concurrent_envs=4))\n"
        },
    ),
    "server_made_at_the_start": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + "from contextlib import asynccontextmanager\n"
            + "from fastapi import FastAPI\n"
            + "from openenv.core.env_server.http_server import HTTPEnvServer\n"
            + "class Own(HTTPEnvServer):\n"
            + "    def __init__(self, env):\n"
            + "        super().__init__(env=env, action_cls=Say, observation_cls=Heard)\n"
            + "@asynccontextmanager\n"
            + "async def lifespan(app):\n"
            + "    Own(lambda: Words('started')).register_routes(app)\n"
            + "    yield\n"
            + "    print('ended')\n"
            + "app = FastAPI(lifespan=lifespan)\n"
        },
    ),
    "routes_replaced": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + MAKE
            + "app.router.routes[:] = [each for each in app.routes if getattr(each, 'path', '') != '/step']\n"
            + "@app.post('/step')\ndef step():\n    return {}\n"
            + "@app.middleware('http')\nasync def limit(request, call_next):\n"
            + "    return await call_next(request)\n"
        },
    ),
    "an_action_that_is_a_dataclass": (
        "server.app:app",
        {
            "server/app.py": MODELS
            + "import dataclasses\n"
            + ENVIRONMENT
            + CREATE
            + "@dataclasses.dataclass\nclass Say:\n    word: str\n"
            + MAKE
        },
    ),
    "models_of_pydantic_alone": (
        "server.app:app",
        {
            "server/app.py": "from pydantic import BaseModel\n"
            + "class Say(BaseModel):\n    word: str\n"
            + "class Heard(BaseModel):\n    words: list[str]\n    reward: float | None = None\n"
            + ENVIRONMENT
            + CREATE
            + MAKE
        },
    ),
    "an_action_of_several_kinds": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + "from typing import Literal\nfrom pydantic import RootModel\n"
            + "class Stop(Action):\n    stop: Literal[True]\n"
            + "class Any_(RootModel[Stop | Say]):\n"
            + "    @property\n    def word(self):\n        return self.root.word\n"
            + "app = create_app(Words, Any_, Heard)\n"
        },
    ),
    "any_action": (
        "server.app:app",
        {
            "server/app.py": WHOLE
            + "class Open(Action):\n    model_config = Action.model_config | {'extra': 'allow'}\n"
            + "app = create_app(Words, Open, Heard)\n"
        },
    ),
    "state_is_a_method": (
        "server.app:app",
        {"server/app.py": WHOLE.replace("    @property\n    def state", "    def state") + MAKE},
    ),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    requests = []
    for name, (target, files) in SHAPES.items():
        for file, text in files.items():
            place = root / name / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        requests.append({"folder": str(root / name), "target": target})
    listed = root / "folders.json"
    listed.write_text(json.dumps(requests))
    command = [sys.executable, str(TESTS / "load_shapes.py"), str(WORKER), str(listed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not list(root.rglob("__pycache__"))
    return json.loads(done.stdout)


FIRST = {"partial": "uno", "server_made_at_the_start": "started"}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_loaded_and_stepped(loaded, name):
    assert "ok" in loaded[name], loaded[name]
    played = loaded[name]["ok"]["loaded"]
    first = FIRST.get(name, "one")
    assert played["reset"]["ok"]["observed"]["fields"] == {"words": [first]}, played["reset"]
    assert played["step"]["ok"]["observed"]["fields"] == {"words": [first, "two"]}, played["step"]
    assert played["step"]["ok"]["observed"]["reward"] == 1


def test_what_an_application_replaces_is_named(loaded):
    notes = " ".join(loaded["routes_replaced"]["ok"]["loaded"]["notes"])
    assert "/step" in notes and "middleware" in notes


def test_an_application_that_was_found_is_named(loaded):
    assert loaded["names_nothing_main"]["ok"]["loaded"]["notes"] == [
        "openenv.yaml names no application; main:app was found"
    ]
