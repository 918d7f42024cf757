"""The worker: runs one OpenEnv environment written in Python for an oxenv server.

It uses the standard library alone and is started with the environment's own Python. It is started
in one of two roles:

    worker.py template   imports the environment once; each session is a forked child, or a thread
    worker.py session    imports the environment and serves one session at a time

Its stdin is a Unix socket that leads to the server. A forked child connects to a socket of its own, first
for requests, then for what it writes to stdout and stderr; a thread connects once. Both ways a message is a
frame: four bytes of length and four with the number of the request (big-endian), then UTF-8 JSON. A request
is an object with "op"; its reply, with the same number, is {"ok": ...} or {"error": {...}}, in order, one at
a time. A template also sends {"exited": {...}} for each child that ended.
"""

import asyncio
import atexit
import collections
import contextlib
import dataclasses
import enum
import functools
import gc
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import json
import os
import random
import re
import select
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
import types
import typing
import weakref

MAX_FRAME = 1 << 30
READ_SIZE = 1 << 16
MAX_TRACEBACK = 16 << 10
MAX_MESSAGE = 16 << 10
TASK_METHODS = ("list_splits", "list_tasks", "num_tasks", "get_task", "get_task_range")
TOOL_TIMEOUT = 30.0
# How long the threads of an ended session have to end.
THREADS_TIMEOUT = 1.0
PR_SET_PDEATHSIG = 1
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
# The exit status of a process that was refused memory by its limit.
EXIT_OUT_OF_MEMORY = 98
CORE_MODULES = ("openenv.core.env_server", "openenv_core.env_server", "core.env_server")
MCP_ACTIONS = {"list_tools": "ListToolsAction", "call_tool": "CallToolAction"}


class HostError(Exception):
    """The environment cannot be served; the text says why and what to do."""


class Unsupported(Exception):
    """What was asked for cannot be done here; the text says why."""


class NonFiniteReward(ValueError):
    """A reward that is not a number, or infinite."""


# Frames.


class Connection:
    """Frames over the socket to the server."""

    def __init__(self, sock):
        self.sock, self.number, self.process = sock, 0, os.getpid()
        self.unread = b""
        """What was read of the next requests; a small request is one read."""

    def receive(self):
        """The next request; None at the end."""
        head = self.read(8)
        if head is None:
            return None
        size, self.number = struct.unpack(">II", head)
        body = self.read(size)
        return None if body is None else json.loads(body)

    def read(self, size):
        """So many bytes; None when the socket ended before."""
        if not self.unread:
            self.unread = self.sock.recv(READ_SIZE)
        data, self.unread = self.unread[:size], self.unread[size:]
        return data if len(data) == size else self.read_rest(data, size)

    def read_rest(self, begin, size):
        """So many bytes, of which the first were read."""
        data = bytearray(size)
        data[: len(begin)] = begin
        view, got = memoryview(data), len(begin)
        while got < size:
            count = self.sock.recv_into(view[got:])
            if count == 0:
                return None
            got += count
        return data

    def send(self, payload):
        """Sends one frame: bytes of JSON."""
        if os.getpid() != self.process:
            # A child that the environment forked has come back from its code: the requests are not its own.
            os._exit(0)
        if len(payload) > MAX_FRAME:
            says = f"the reply has {len(payload)} bytes; {MAX_FRAME} are allowed"
            payload = error_reply("environment", says)
        head = struct.pack(">II", len(payload), self.number)
        if len(payload) < 65536:
            self.sock.sendall(head + payload)
        else:
            self.sock.sendall(head)
            self.sock.sendall(payload)


# JSON as the reference server writes it.


def plain_default(value):
    """What the json module cannot write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        # Arrays and numbers of numpy and torch.
        return value.tolist()
    raise TypeError(f"Unable to serialize unknown type: {type(value)}")


def without_nan(value):
    """The value with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


@functools.lru_cache(maxsize=None)
def json_writer():
    """The function that turns a value into bytes of JSON: pydantic's where it is installed."""
    try:
        from pydantic_core import to_json
    except ImportError:
        return lambda value: json.dumps(without_nan(value), default=plain_default, allow_nan=False).encode()
    return functools.partial(to_json, inf_nan_mode="null", fallback=plain_default)


def to_json(value):
    """Bytes of JSON; not a number and infinity become null."""
    return json_writer()(value)


def dump(model):
    """A model, dataclass or mapping as a new dict."""
    if hasattr(model, "model_dump"):
        return model.model_dump()
    if dataclasses.is_dataclass(model):
        return dataclasses.asdict(model)
    if hasattr(model, "dict") and callable(model.dict):
        return model.dict()
    if isinstance(model, typing.Mapping):
        return dict(model)
    if model is None or isinstance(model, type) or not hasattr(model, "__dict__"):
        raise TypeError(f"expected a model, a dataclass or a mapping, and not {type(model).__name__}")
    return dict(vars(model))


def checked_reward(reward):
    """A reward as the wire has it: null, a boolean, a whole number, or a finite number."""
    if reward is None or isinstance(reward, bool):
        return reward
    if isinstance(reward, int) and -(2**63) <= reward < 2**63:
        return reward
    try:
        number = float(reward)
    except OverflowError:
        raise NonFiniteReward("the reward is larger than any float") from None
    if number - number != 0:
        raise NonFiniteReward(f"the reward is not finite: {number}")
    return number


# Replies.


def readable(text, most):
    """A text that JSON readers take, of a bounded length."""
    text = text if len(text) <= most else text[:most] + "…"
    return text.encode("utf-8", "replace").decode()


def error_reply(kind, message, **more):
    """A reply that something failed. Kinds: environment, reward, invalid, unsupported, host."""
    error = {"kind": kind, "message": readable(message, MAX_MESSAGE), **more}
    return json.dumps({"error": error}).encode()


def error_text(error):
    """What an exception says, whatever its own code does."""
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def traceback_of(error):
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:
        text = type(error).__name__
    return readable(text[-MAX_TRACEBACK:], MAX_TRACEBACK)


def exception_reply(error):
    """The reply for an exception of the environment's."""
    kind = "reward" if isinstance(error, NonFiniteReward) else "environment"
    return error_reply(kind, error_text(error), trace=traceback_of(error))


def validation_reply(error):
    """The reply for pydantic's ValidationError: its list, as the reference sends it."""
    try:
        issues = json.loads(to_json(error.errors()))
    except Exception:
        issues = json.loads(to_json(error.errors(include_context=False, include_input=False)))
    return json.dumps({"error": {"kind": "invalid", "message": "Invalid message", "issues": issues}}).encode()


def is_validation_error(error):
    """Whether an exception is pydantic's ValidationError, of whichever pydantic."""
    return type(error).__name__ == "ValidationError" and callable(getattr(error, "errors", None))


# Finding the environment.


class PackageAlias(importlib.abc.MetaPathFinder):
    """Makes a folder importable under names that it does not have: it is usually not installed."""

    def __init__(self, names, folder):
        self.names, self.folder = frozenset(names), folder

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self.names:
            return None
        init = os.path.join(self.folder, "__init__.py")
        if os.path.isfile(init):
            return importlib.util.spec_from_file_location(
                fullname, init, submodule_search_locations=[self.folder]
            )
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [self.folder]
        return spec


class ProjectDistribution(importlib.metadata.Distribution):
    """What pyproject.toml says of a folder that is not installed, for those who ask for their own version."""

    def __init__(self, folder, name, version):
        self.folder, self.headers = folder, f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename):
        return self.headers if filename == "METADATA" else None

    def locate_file(self, path):
        return os.path.join(self.folder, path)


class ProjectFinder(importlib.abc.MetaPathFinder):
    """Finds the distribution of a folder that is not installed."""

    def __init__(self, folder, project):
        self.folder, self.project = folder, project

    def find_spec(self, fullname, path=None, target=None):
        return None

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):
        own = context.name is None or plain_name(context.name) == plain_name(self.project["name"])
        return [ProjectDistribution(self.folder, **self.project)] if own else []


def plain_name(name):
    """A distribution's name as names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_project(folder):
    """The text of a folder's pyproject.toml; empty without one."""
    try:
        with open(os.path.join(folder, "pyproject.toml"), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def project_line(text, key):
    """A line of pyproject.toml's first table that has it; Python 3.10 has no tomllib."""
    found = re.search(rf'(?m)^\s*{key}\s*=\s*["\']([^"\']+)["\']', text)
    return found.group(1) if found else None


def package_names(folder, name, text):
    """The names under which the modules of a folder may import each other."""
    names = {os.path.basename(folder)}
    if name:
        names.add(name)
    project = project_line(text, "name")
    if project:
        names.add(project.removeprefix("openenv-"))
    names.update(re.findall(r'["\']?(\w+)["\']?\s*=\s*["\']\.["\']', text))
    names = {each.replace("-", "_") for each in names}
    return sorted(each for each in names if each.isidentifier() and is_free(each, folder))


def is_free(name, folder):
    """Whether a package's name means a folder, or nothing yet."""
    spec = importlib.util.find_spec(name)
    places = () if spec is None else spec.submodule_search_locations or ()
    return spec is None or folder in map(os.path.realpath, places)


def candidates(folder, aliases):
    """Where the application of a folder is looked for that does not say."""
    found = []
    for module in ("server.app", "app", "server.main", "main", "server"):
        path = os.path.join(folder, *module.split("."))
        if os.path.isfile(path + ".py"):
            found.append(module)
    for parent in [folder, os.path.join(folder, "src")]:
        for entry in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
            if os.path.isfile(os.path.join(parent, entry, "server", "app.py")):
                found.append(f"{entry}.server.app")
    return found


def import_module(name, aliases):
    """A module by its name, or by its name inside the folder's package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        beyond = "attempted relative import" in str(error)
        missing = isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name)
        if not (beyond or missing):
            raise
        first = error
    for prefix in aliases:
        for loaded in [each for each in sys.modules if each == name or name.startswith(each + ".")]:
            del sys.modules[loaded]
        tail = name.split(".")
        # A path from a repository's root or from inside the package names the package itself.
        while tail and prefix in tail:
            tail = tail[tail.index(prefix) + 1 :]
        try:
            return importlib.import_module(".".join([prefix, *tail]))
        except ModuleNotFoundError as error:
            if not (error.name and error.name.startswith(prefix)):
                raise
    raise first


class Captured:
    """What an application handed to the reference's server."""

    def __init__(self, factory, action, observation, extra):
        self.factory, self.action, self.observation = factory, action, observation
        self.name = extra.get("env_name")
        self.state = extra.get("state_cls")
        self.reset_observation = extra.get("reset_observation_cls")


def capture_servers():
    """Notes what each HTTPEnvServer is made with; a list that grows."""
    captured = []
    for core in CORE_MODULES:
        try:
            module = importlib.import_module(core + ".http_server")
        except ImportError:
            continue
        capture_server(module.HTTPEnvServer, captured)
    return captured


def capture_server(server, captured):
    original = server.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def noting(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs).arguments
        extra = {key: bound.get(key) for key in ("env_name", "state_cls", "reset_observation_cls")}
        made = Captured(bound.get("env"), bound.get("action_cls"), bound.get("observation_cls"), extra)
        captured.append(made)
        original(self, *args, **kwargs)

    server.__init__ = noting
    # A process for each session makes every class fit for several sessions at once.
    if hasattr(server, "_validate_concurrency_safety"):
        server._validate_concurrency_safety = lambda self: None


@functools.lru_cache(maxsize=None)
def core_module(name):
    """A module of the reference's core that is installed, or None."""
    for core in CORE_MODULES:
        try:
            return importlib.import_module(f"{core}.{name}")
        except ImportError:
            continue
    return None


def annotated_types(cls):
    """Action, observation and state as a class's generics and annotations name them."""
    found = {}
    for base in getattr(cls, "__orig_bases__", ()):
        arguments = [each for each in typing.get_args(base) if is_model(each)]
        for key, argument in zip(("action", "observation", "state"), arguments):
            found.setdefault(key, argument)
    for method, parameter, result in (("step", "action", "observation"), ("state", None, "state")):
        function = inspect.getattr_static(cls, method, None)
        function = function.fget if isinstance(function, property) else function
        try:
            hints = typing.get_type_hints(function)
        except Exception:
            continue
        if parameter and is_model(hints.get(parameter)):
            found.setdefault(parameter, hints[parameter])
        if is_model(hints.get("return")):
            found.setdefault(result, hints["return"])
    return found


def is_model(annotation):
    """Whether an annotation names a class that says something."""
    return isinstance(annotation, type) and annotation not in (typing.Any, object)


def is_environment_class(value):
    # By type, as in generators.
    is_class = issubclass(type(value), type)
    return is_class and callable(getattr(value, "reset", None)) and hasattr(value, "step")


def is_environment(value):
    return not isinstance(value, type) and callable(getattr(value, "reset", None)) and hasattr(value, "step")


def lists_tools(value):
    """Whether an environment, or its class, lists and calls its tools itself, as those of oxenv's package."""
    return callable(getattr(value, "get_available_tools", None)) and callable(
        getattr(value, "tool_step", None)
    )


def is_application(value):
    return hasattr(value, "routes") and callable(value)


def named(text, aliases):
    """The object behind package.module:Name."""
    module, _, name = text.partition(":")
    found = import_module(module, aliases)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = sorted(key for key, value in vars(found).items() if is_environment_class(value))
            hint = f"; it has {', '.join(known[:8])}" if known else ""
            raise HostError(f"module '{module}' has no '{name}'{hint}") from None
    return found


def without_serving(function):
    """What a function gives; one that would serve an application gives that instead."""
    served = []
    try:
        uvicorn = importlib.import_module("uvicorn")
    except ImportError:
        return function()
    run, uvicorn.run = uvicorn.run, lambda app, *_, **__: served.append(app)
    try:
        made = function()
    finally:
        uvicorn.run = run
    app = served[0] if served else made
    return named(app, ()) if isinstance(app, str) else app


class Hosted:
    """The environment that is served: how to make one, and its types."""

    def __init__(self, request):
        self.notes = []
        self.aliases = []
        self.lifespan = None
        folder = request.get("folder")
        if folder:
            self.prepare_folder(folder, request.get("name"))
        else:
            sys.path.insert(0, request.get("path") or os.getcwd())
        os.environ.pop("ENABLE_WEB_INTERFACE", None)
        captured = capture_servers()
        target = request.get("target")
        targets = [target] if target else [each + ":app" for each in candidates(folder, self.aliases)]
        if not targets:
            raise HostError(
                f"{folder} names no application: openenv.yaml has no 'app', and there is no server/app.py, "
                "app.py or main.py; name it: oxenv serve package.module:EnvClass"
            )
        if not target:
            self.notes.append(f"openenv.yaml names no application; {targets[0]} was found")
        value = named(targets[0], self.aliases)
        self.take(value, captured, targets[0])
        types_of = annotated_types(self.factory if isinstance(self.factory, type) else type(self.factory))
        for key in ("action", "observation", "state"):
            if request.get(key):
                setattr(self, key, named(request[key], self.aliases))
            elif getattr(self, key) is None:
                setattr(self, key, types_of.get(key) or self.base_type(key))

    def prepare_folder(self, folder, name):
        # Installed packages first for 'openenv', which some folders ship a directory called so.
        for core in ("openenv", "openenv_core"):
            try:
                importlib.import_module(core)
            except ImportError:
                pass
        sys.path.insert(0, folder)
        source = os.path.join(folder, "src")
        if os.path.isdir(source):
            sys.path.insert(1, source)
        # Nothing is written into the folder.
        sys.dont_write_bytecode = True
        project = read_project(folder)
        self.aliases = package_names(folder, name, project)
        if project_line(project, "name"):
            version = project_line(project, "version") or "0"
            about = {"name": project_line(project, "name"), "version": version}
            sys.meta_path.append(ProjectFinder(folder, about))
        names = set(self.aliases) | {f"envs.{each}" for each in self.aliases}
        sys.meta_path.append(PackageAlias(names, folder))
        if importlib.util.find_spec("envs") is None:
            sys.meta_path.append(PackageAlias({"envs"}, os.path.dirname(folder)))

    def take(self, value, captured, target):
        """Finds the environment behind what a name names."""
        self.action = self.observation = self.state = self.reset_observation = self.name = None
        if is_environment_class(value) or is_environment(value):
            self.factory = value
            return
        if not is_application(value) and callable(value):
            made = without_serving(value)
            if is_environment(made):
                self.factory = value
                return
            value = made
        if is_application(value):
            self.note_application(value)
            if not captured:
                self.start(value)
        if isinstance(value, type):
            raise HostError(f"'{target}' is a class without reset and step, so it is no environment")
        if not captured and not is_application(value):
            raise HostError(
                f"'{target}' is no environment, and makes none: it is, or gives, {type(value).__name__}"
            )
        if not captured:
            raise HostError(
                f"'{target}' is an application without an environment: it does not use create_app or "
                "HTTPEnvServer; name the class: oxenv serve package.module:EnvClass"
            )
        made = captured[-1]
        if len(captured) > 1:
            self.notes.append(f"'{target}' makes {len(captured)} servers; the last is used")
        self.factory, self.action, self.observation = made.factory, made.action, made.observation
        self.state, self.reset_observation, self.name = made.state, made.reset_observation, made.name

    def start(self, app):
        """Does what an application does when it starts: some make their server only then."""
        started = getattr(getattr(app, "router", None), "lifespan_context", None)
        if started is not None:
            # It is never left: the application goes on for as long as the process.
            self.lifespan = started(app)
            loop = asyncio.new_event_loop()
            loop.run_until_complete(self.lifespan.__aenter__())
            loop.close()

    def note_application(self, app):
        """Says what of an application is gone around."""
        own = []
        for route in getattr(app, "routes", []):
            module = getattr(getattr(route, "endpoint", None), "__module__", None) or "fastapi"
            if module.split(".")[0] not in ("openenv", "openenv_core", "core", "fastapi", "starlette"):
                own.append(getattr(route, "path", "?"))
        if own:
            paths = ", ".join(sorted(set(own))[:20])
            self.notes.append("routes of the application that are not served: " + paths)
        middleware = [getattr(each.cls, "__name__", "?") for each in getattr(app, "user_middleware", [])]
        if middleware:
            self.notes.append("middleware of the application that is gone around: " + ", ".join(middleware))

    def base_type(self, key):
        """The reference's own type, for what names none."""
        if lists_tools(self.environment_class()):
            return None
        types_module = core_module("types")
        return getattr(types_module, key.capitalize(), None)

    def environment_class(self):
        factory = self.factory
        while isinstance(factory, functools.partial):
            factory = factory.func
        return factory if isinstance(factory, type) else None

    def title(self):
        cls = self.environment_class()
        if cls is not None:
            return cls.__name__
        if is_environment(self.factory):
            return type(self.factory).__name__
        return getattr(self.factory, "__name__", "environment")

    def schema(self, cls):
        if cls is None:
            return {"type": "object"}
        if hasattr(cls, "model_json_schema"):
            return cls.model_json_schema()
        try:
            from pydantic import TypeAdapter

            return TypeAdapter(cls).json_schema()
        except Exception:
            return {"type": "object", "title": cls.__name__}

    def describe(self):
        """What the server tells about the environment without a session."""
        cls = self.environment_class()
        return {
            "name": self.name,
            "title": self.title(),
            "module": getattr(cls or self.factory, "__module__", ""),
            "schemas": {
                "action": self.schema(self.action),
                "observation": self.schema(self.observation),
                "reset_observation": self.schema(self.reset_observation or self.observation),
                "state": self.schema(self.state),
            },
            "python": sys.version.split()[0],
            "notes": self.notes,
            "threads": thread_count(),
            "cuda": bool(getattr(getattr(sys.modules.get("torch"), "cuda", None), "is_initialized", bool)()),
        }

    def make(self):
        return self.factory() if callable(self.factory) and not is_environment(self.factory) else self.factory

    def parse_action(self, data):
        """An action as the reference makes it of JSON."""
        name = MCP_ACTIONS.get(data.get("type")) if isinstance(data, dict) else None
        if name and self.takes_mcp_actions():
            return getattr(core_module("mcp_types"), name).model_validate(data)
        if hasattr(self.action, "model_validate"):
            return self.action.model_validate(data)
        if dataclasses.is_dataclass(self.action):
            return validated(self.action, data)
        return self.action(data) if self.action else data

    def takes_mcp_actions(self):
        """Whether "list_tools" and "call_tool" are MCP's actions, and not the environment's own."""
        types_module = core_module("mcp_types")
        if types_module is None or self.action is None:
            return False
        known = (self.base_type("action"), types_module.ListToolsAction, types_module.CallToolAction)
        return self.action in known


def validated(cls, data):
    """A dataclass made of JSON, by pydantic where it is installed."""
    try:
        from pydantic import TypeAdapter
    except ImportError:
        check_fields(cls, data)
        return cls(**data)
    return TypeAdapter(cls).validate_python(data)


class ValidationError(ValueError):
    """As pydantic's: what of an action does not fit its class."""

    def errors(self):
        return self.args[0]


def check_fields(cls, data):
    """Raises a ValidationError unless a dataclass can be made of the keys of an object."""
    if not isinstance(data, dict):
        says = f"Input should be a dictionary or an instance of {cls.__name__}"
        raise ValidationError([{"type": "dataclass_type", "loc": (), "msg": says, "input": data}])
    fields = {each.name: each for each in dataclasses.fields(cls) if each.init}
    none = dataclasses.MISSING
    required = [key for key, each in fields.items() if each.default is none and each.default_factory is none]
    missing = [key for key in required if key not in data]
    extra = [key for key in data if key not in fields]
    issues = [{"type": "missing", "loc": (key,), "msg": "Field required", "input": data} for key in missing]
    kind, says = "unexpected_keyword_argument", "Unexpected keyword argument"
    issues += [{"type": kind, "loc": (key,), "msg": says, "input": data[key]} for key in extra]
    if issues:
        raise ValidationError(issues)


def thread_count():
    """Threads of this process, those of native libraries too where the system tells them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


# Randomness.


def generators():
    """Generators that exist already: forked children would all roll equal dice with them."""
    numpy_random = sys.modules.get("numpy.random")
    kinds = (random.Random,)
    if numpy_random is not None:
        kinds += (numpy_random.Generator, numpy_random.RandomState)
    # By type: isinstance asks an object for its class, and a lazy one then imports what it stands for.
    return [each for each in gc.get_objects() if issubclass(type(each), kinds)]


def reseed(seed, found=()):
    """Seeds every source of randomness that this process has."""
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed & 0xFFFFFFFF)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)
    for place, generator in enumerate(found, 1):
        own = (seed + place * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        if isinstance(generator, random.Random):
            if type(generator) is not random.SystemRandom:
                generator.seed(own)
        elif hasattr(generator, "bit_generator"):
            generator.bit_generator.state = type(generator.bit_generator)(own).state
        else:
            generator.seed(own & 0xFFFFFFFF)


# Sessions.


def overrides(value, name):
    """Whether an environment has its own version of one of the base class's methods."""
    interfaces = core_module("interfaces")
    own = inspect.getattr_static(type(value), name, None)
    base = inspect.getattr_static(interfaces.Environment, name, None) if interfaces else None
    return own is not None and own is not base


def accepted(function, arguments):
    """The arguments that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return arguments
    names = {each.name for each in parameters}
    return {key: value for key, value in arguments.items() if key in names}


class Session:
    """One environment and the requests about it."""

    def __init__(self, hosted, connection, found=(), alone=True, copying=None):
        self.hosted, self.connection, self.found = hosted, connection, found
        self.alone = alone
        """Whether it has the process, and with it the generators, to itself."""
        self.copying = copying
        """What makes copies of its process; None where it cannot be forked."""
        self.environment = self.loop = self.mcp = self.reset = self.step = None
        self.threads = set(threading.enumerate())
        """Those that are no session's own."""
        self.children = children() if alone else set()

    def serve(self):
        """Answers requests until the server closes the session or the connection."""
        while True:
            request = self.connection.receive()
            if request is None:
                return
            operation = request.pop("op", None)
            asked = self.connection
            reply = self.answer(operation, request)
            if self.connection is asked:
                asked.send(reply)
            if operation == "close":
                return

    def answer(self, operation, request):
        handler = getattr(self, "do_" + str(operation), None)
        if handler is None:
            return error_reply("host", f"no operation is called {operation!r}")
        try:
            return handler(**request)
        except HostError as error:
            return error_reply("host", str(error))
        except Unsupported as error:
            return error_reply("unsupported", str(error))
        except SystemExit:
            raise
        except BaseException as error:
            if isinstance(error, MemoryError) and memory_is_limited():
                traceback.print_exc()
                raise SystemExit(EXIT_OUT_OF_MEMORY) from None
            if is_validation_error(error):
                return validation_reply(error)
            return exception_reply(error)

    def run(self, value):
        """The result of a call that may be a coroutine."""
        if not hasattr(value, "__await__"):
            return value
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        if not inspect.iscoroutine(value):
            value = self.wait_for(value)
        return self.loop.run_until_complete(value)

    @staticmethod
    async def wait_for(value):
        return await value

    def do_ping(self):
        """The server asks whether this process runs."""
        return b'{"ok":{}}'

    def do_copy(self, worker, socket):
        """Forks a process that goes on from here and connects to a socket; in it, replaces the connection."""
        if self.copying is None:
            raise Unsupported("the environment cannot be forked: its process has not been forked itself")
        copied = self.copying.copy(worker, socket, self.connection, self.loop)
        if copied is not None:
            self.connection = copied
        return b'{"ok":{}}'

    def do_enter(self, groups=(), folders=()):
        """Enters the groups and the folders of a copy."""
        self.copying.enter(groups, folders)
        return b'{"ok":{}}'

    def do_create(self, seed, mode=None):
        self.reseed(seed)
        if mode:
            os.environ["OPENENV_MODE"] = mode
        environment = self.run(self.hosted.make())
        if not self.alone and not getattr(environment, "SUPPORTS_CONCURRENT_SESSIONS", False):
            raise HostError(
                f"{type(environment).__name__} does not say SUPPORTS_CONCURRENT_SESSIONS = True, so its "
                "sessions cannot be threads of one process; leave out --isolation thread"
            )
        if mode and hasattr(environment, "_mode_tools"):
            environment._mode = mode
        self.environment = environment
        self.reset = environment.reset_async if overrides(environment, "reset_async") else environment.reset
        self.step = environment.step_async if overrides(environment, "step_async") else environment.step
        calls_tools = self.hosted.takes_mcp_actions()
        tool_types = calls_tools and self.hosted.action is not self.hosted.base_type("action")
        if lists_tools(environment):
            self.mcp = OwnTools(environment)
        elif callable(getattr(environment, "mcp_session", None)) or tool_types:
            self.mcp = ToolServer(self, environment)
        tools = self.mcp.tools() if self.mcp else []
        metadata = None
        if callable(getattr(environment, "get_metadata", None)):
            metadata = dump(environment.get_metadata())
        tasks = any(callable(getattr(environment, each, None)) for each in TASK_METHODS)
        takes_tool_calls = calls_tools and callable(getattr(environment, "mcp_session", None))
        takes_tool_calls = takes_tool_calls or bool(getattr(environment, "takes_tool_calls", False))
        created = {"tools": tools, "takes_tool_calls": takes_tool_calls, "metadata": metadata, "tasks": tasks}
        return self.ok({"created": created})

    def reseed(self, seed):
        if self.alone:
            reseed(seed, self.found)

    def do_reset(self, seed, arguments, episode_id=None):
        self.reseed(seed)
        given = accepted(self.reset, {"episode_id": episode_id, **arguments} if episode_id else arguments)
        return self.observed(self.run(self.reset(**given)))

    def do_step(self, action):
        return self.observed(self.run(self.step(self.hosted.parse_action(action))))

    def do_call(self, tool, arguments):
        """A tool call, made as the step that the reference makes of it."""
        observation = self.run(self.mcp.call(tool, arguments))
        error = getattr(observation, "error", None)
        if error is not None:
            call = {"error": {"error_type": error.error_type, "message": error.message}}
        elif hasattr(observation, "result"):
            call = {"result": plain_result(observation.result)}
        else:
            raise TypeError(f"the environment answered a tool call with {type(observation).__name__}")
        call["reward"], call["done"] = checked_reward(observation.reward), bool(observation.done)
        return self.ok({"call": call})

    def do_task(self, method, arguments):
        """One of TASK_METHODS, with its errors as the reference takes them."""
        function = getattr(self.environment, method, None)
        if not callable(function):
            return b'{"ok":{"task":"unsupported"}}'
        try:
            value = self.run(function(*arguments))
        except NotImplementedError:
            return b'{"ok":{"task":"unsupported"}}'
        except IndexError:
            return b'{"ok":{"task":"out_of_range"}}'
        if method == "list_splits":
            value = [named_split(each) for each in value]
        return b'{"ok":{"task":{"value":' + to_json(value) + b"}}}"

    def do_close(self):
        if self.environment is not None and callable(getattr(self.environment, "close", None)):
            self.run(self.environment.close())
        return b'{"ok":{}}'

    def do_release(self, log, **place):
        """Closes the environment, and makes the process ready for another session."""
        self.do_close()
        self.environment = self.mcp = self.reset = self.step = None
        if self.loop is not None:
            end_loop(self.loop)
            self.loop = None
        gc.collect()
        end_children(lambda: self.children)
        threads = self.threads_left()
        if threads:
            return error_reply("host", f"the session has left threads: {', '.join(threads)}")
        flush_output()
        write_to(log)
        prepare_place(place)
        return b'{"ok":{}}'

    def threads_left(self):
        """The names of the session's threads that go on."""
        end = time.monotonic() + THREADS_TIMEOUT
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        return [thread.name for thread in set(threading.enumerate()) - self.threads]

    def observed(self, observation):
        """An observation as the parts that the server puts together."""
        fields = dump(observation)
        parts = {
            "reward": checked_reward(fields.pop("reward", None)),
            "done": bool(fields.pop("done", False)),
            "metadata": fields.pop("metadata", None) or {},
            "fields": fields,
        }
        return self.ok({"observed": parts})

    def ok(self, parts):
        """The reply of what was asked for, with the state as it is now."""
        parts["state"] = self.state()
        try:
            return to_json({"ok": parts})
        except Exception as error:
            # What was done is not undone by a state that cannot be written.
            if parts["state"] is None or is_json(parts["state"]):
                raise
            parts["state"] = {"error": str(error)}
            return to_json({"ok": parts})

    def state(self):
        """The present state's own fields, or why there are none."""
        try:
            state = getattr(self.environment, "state", None)
            state = state() if callable(state) and not hasattr(state, "model_dump") else state
            state = self.run(state)
            fields = dump(state) if state is not None else {}
        except Exception as error:
            return {"error": readable(error_text(error), MAX_MESSAGE)}
        fields.pop("episode_id", None)
        fields.pop("step_count", None)
        return {"fields": fields}


def end_loop(loop):
    """Ends an event loop with its tasks and threads."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    asyncio.set_event_loop(None)
    loop.close()


def is_json(value):
    """Whether a value can be written."""
    try:
        to_json(value)
    except Exception:
        return False
    return True


def named_split(split):
    """A split as the reference shows it."""
    if hasattr(split, "model_dump") or isinstance(split, dict):
        return split
    name = str(split)
    known = isinstance(split, str) and name in ("train", "validation", "test")
    return {"name": name, "type": name if known else "validation"}


def plain_result(result):
    """A tool's result in the spelling of FastMCP's client."""
    if dataclasses.is_dataclass(result) or hasattr(result, "is_error"):
        return {
            "content": [plain_block(block) for block in getattr(result, "content", None) or []],
            "structured_content": getattr(result, "structured_content", None),
            "meta": getattr(result, "meta", None),
            "is_error": bool(getattr(result, "is_error", False)),
            "data": without_models(getattr(result, "data", None)),
        }
    value = without_models(result)
    text = value if isinstance(value, str) else to_json(value).decode()
    content = [{"type": "text", "text": text}]
    return {"content": content, "structured_content": {"result": value}, "data": value, "is_error": False}


def plain_block(block):
    return block.model_dump(by_alias=True, exclude_none=True) if hasattr(block, "model_dump") else block


def without_models(value):
    return value.model_dump() if hasattr(value, "model_dump") else value


class ToolServer:
    """The FastMCP server of an environment, asked without a client where that gives the same."""

    def __init__(self, session, environment):
        self.session, self.environment, self.step = session, environment, session.step
        self.bypass()

    def bypass(self):
        """Lets the environment's own code call its server without FastMCP's client."""
        environment = self.environment
        base = getattr(core_module("mcp_environment"), "MCPEnvironment", None)
        server = getattr(environment, "mcp_server", None)
        direct = getattr(server, "call_tool", None)
        own = base and getattr(type(environment), "_async_call_tool", None) is not base._async_call_tool
        if base is None or own or not callable(direct) or not can_bypass(server):
            return
        stock = environment._async_call_tool
        client_result = importlib.import_module("fastmcp.client.client").CallToolResult
        tool_error = importlib.import_module("fastmcp.exceptions").ToolError
        functions = FunctionTools.of(server)
        handle = getattr(environment, "_async_handle_call_tool", None)
        failed = None

        def result_of(result):
            structured = result.structured_content
            meta = getattr(result, "meta", None)
            wrapped = isinstance(structured, dict) and set(structured) == {"result"}
            data = structured["result"] if wrapped else structured
            return client_result(
                content=result.content, structured_content=structured, meta=meta, data=data, is_error=False
            )

        async def call(tool_name, arguments):
            nonlocal failed
            error, failed = failed, None
            if isinstance(error, asyncio.TimeoutError):
                raise error
            try:
                if error is not None:
                    raise error
                if await is_plain(server, tool_name):
                    return result_of(await server.call_tool(tool_name, arguments))
            except Exception as error:
                raise tool_error(client_error_text(error, tool_name)) from error
            return await stock(tool_name, arguments)

        async def handle_call(action, timeout_s=None):
            nonlocal failed
            tool = await functions.find(action.tool_name)
            if tool is None or action.tool_name in getattr(environment, "_mode_tools", ()):
                return await handle(action, timeout_s=timeout_s)
            limit = TOOL_TIMEOUT if timeout_s is None else timeout_s
            try:
                result = result_of(await functions.call(tool, action.arguments, limit))
            except Exception as error:
                # The environment's own code says what kind of error it is.
                failed = error
                return await handle(action, timeout_s=timeout_s)
            return observation(tool_name=action.tool_name, result=result)

        environment._async_call_tool = call
        observation = getattr(core_module("mcp_types"), "CallToolObservation", None)
        own = getattr(type(environment), "_async_handle_call_tool", None)
        if functions and observation and own is getattr(base, "_async_handle_call_tool", 0):
            environment._async_handle_call_tool = handle_call

    def call(self, tool, arguments):
        """The observation of a tool call, or what gives it."""
        return self.step(core_module("mcp_types").CallToolAction(tool_name=tool, arguments=arguments))

    def tools(self):
        """The tools with their schemas, as the environment lists them."""
        actions = core_module("mcp_types")
        try:
            listed = self.session.run(self.step(actions.ListToolsAction()))
        except Exception as error:
            print(f"a step does not list the tools: {error}", file=sys.stderr)
            listed = None
            direct = getattr(self.environment, "_handle_call_tool", None)
            if direct and not self.session.hosted.takes_mcp_actions():
                # Its steps take its own actions alone: its tools are called beside them.
                self.step = direct
        of_server = self.of_server()
        shown = list(getattr(listed, "tools", None) or ())
        if not shown:
            return list(of_server.values())
        of_step = [
            {"name": each.name, "description": each.description or "", "inputSchema": each.input_schema}
            for each in shown
        ]
        return [{**of_server.get(each["name"], {}), **each} for each in of_step]

    def of_server(self):
        """The tools as the environment's FastMCP server describes them, by name."""
        if not callable(getattr(self.environment, "mcp_session", None)):
            return {}

        async def ask():
            async with self.environment.mcp_session() as client:
                return await client.list_tools()

        described = {}
        for each in self.session.run(ask()):
            fields = each.model_dump(by_alias=True, exclude_none=True, mode="json")
            kept = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
            described[each.name] = {"description": "", **{key: fields[key] for key in kept if key in fields}}
        return described


async def is_plain(server, name):
    """Whether a tool is a function that is given nothing but its arguments: no context of a client."""
    tool = await server.get_tool(name)
    injected = importlib.import_module("fastmcp.server.dependencies").without_injected_parameters
    own = type(tool) is importlib.import_module("fastmcp.tools.function_tool").FunctionTool
    return tool is None or (own and injected(tool.fn) is tool.fn)


class FunctionTools:
    """The tools of a FastMCP server that are synchronous functions and no more, called without a thread.

    FastMCP finds a tool anew for each call and calls it in a thread. Here a tool is found once, and again
    when anything was added to the server or taken from it.
    """

    def __init__(self, server, provider):
        self.server, self.provider = server, provider
        self.tools, self.stamp = {}, None
        exceptions = importlib.import_module("fastmcp.exceptions")
        self.fastmcp_error, self.tool_error = exceptions.FastMCPError, exceptions.ToolError
        self.function_tool = importlib.import_module("fastmcp.tools.function_tool").FunctionTool
        self.context = importlib.import_module("fastmcp.server.context").Context
        injected = importlib.import_module("fastmcp.server.dependencies").without_injected_parameters
        self.takes_injected = lambda function: injected(function) is not function
        self.adapter = importlib.import_module("fastmcp.utilities.types").get_cached_typeadapter

    @classmethod
    def of(cls, server):
        """Those of a server; None where FastMCP is of a version whose parts are others."""
        try:
            (provider,) = server.providers
            found = cls(server, provider)
            found.present()
        except Exception:
            return None
        if in_main_thread():
            if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, raise_time_is_up):
                return None
            signal.signal(signal.SIGALRM, raise_time_is_up)
        return found

    def present(self):
        """What changes when tools are added, removed, hidden or shown, or a middleware is added."""
        server, provider = self.server, self.provider
        parts = (provider._components, provider.transforms, server.transforms, server.middleware)
        return (*map(len, parts), len(server.providers))

    async def find(self, name):
        """A tool's function with its type adapter; None if FastMCP has to call it."""
        stamp = self.present()
        if stamp != self.stamp:
            self.tools, self.stamp = {}, stamp
        if name in self.tools:
            found = self.tools[name]
            if found is None or self.provider._components.get(found[0].key) is found[0]:
                return found
        tool = await self.server.get_tool(name)
        self.tools[name] = self.checked(tool)
        return self.tools[name]

    def checked(self, tool):
        plain = (
            type(tool) is self.function_tool
            and tool.timeout is None
            and self.provider._components.get(tool.key) is tool
            and not is_asynchronous(tool.fn)
            and not self.takes_injected(tool.fn)
        )
        return (tool, self.adapter(tool.fn)) if plain else None

    async def call(self, found, arguments, limit):
        """The result of a tool, or the exception that FastMCP's server raises for it."""
        tool, adapter = found

        def call():
            with deadline(limit):
                result = adapter.validate_python(arguments)
                return list(result) if inspect.isgenerator(result) else result

        async with self.context(fastmcp=self.server):
            try:
                result = outside_loop(call)
                return tool.convert_result(await result if inspect.isawaitable(result) else result)
            except self.fastmcp_error:
                raise
            except TimeIsUp:
                raise asyncio.TimeoutError from None
            except Exception as error:
                raise self.server_error(tool.name, error) from error

    def server_error(self, name, error):
        """What FastMCP's server makes of an exception."""
        if is_validation_error(error):
            return error
        traceback.print_exception(error)
        kind, status = type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
        if kind == "HTTPStatusError" and status == 429:
            return self.tool_error("Rate limited by upstream API, please retry later")
        if kind.endswith("Timeout") and type(error).__module__ == "httpx":
            return self.tool_error("Upstream request timed out, please retry")
        detail = "" if self.server._mask_error_details else f": {error}"
        return self.tool_error(f"Error calling tool {name!r}{detail}")


def is_asynchronous(function):
    """Whether a function's result is awaited or iterated asynchronously."""
    while isinstance(function, functools.partial):
        function = function.func
    each = (function, getattr(function, "__call__", None))
    return any(map(inspect.iscoroutinefunction, each)) or any(map(inspect.isasyncgenfunction, each))


class TimeIsUp(BaseException):
    """A tool took longer than its step allows."""


def raise_time_is_up(*_):
    raise TimeIsUp


def in_main_thread():
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def deadline(seconds):
    """Interrupts what takes longer. Other threads than the main one are not interrupted, but end as late."""
    if in_main_thread():
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        end = time.monotonic() + seconds
        yield
        if time.monotonic() > end:
            raise TimeIsUp


def outside_loop(function):
    """Calls a synchronous function from a coroutine as if no event loop ran, so that it may run its own."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        return function()
    finally:
        asyncio._set_running_loop(loop)
        asyncio._enter_task(loop, task)


class OwnTools:
    """The tools of an environment that lists and calls them itself."""

    def __init__(self, environment):
        self.environment = environment

    def call(self, tool, arguments):
        """The observation of a tool call, or what gives it."""
        return self.environment.tool_step(tool, arguments)

    def tools(self):
        """The tools with their schemas."""
        return [
            {
                "name": each.name,
                "title": each.title,
                "description": each.description,
                "inputSchema": each.input_schema,
                "outputSchema": each.output_schema,
                "annotations": each.annotations,
            }
            for each in self.environment.get_available_tools()
        ]


def can_bypass(server):
    """Whether a server answers the same without a client: nothing stands between the two."""
    try:
        version = importlib.import_module("fastmcp").__version__
    except Exception:
        return False
    return version.split(".")[0] == "3" and not [
        each for each in getattr(server, "middleware", []) if type(each).__module__.split(".")[0] != "fastmcp"
    ]


def client_error_text(error, tool_name):
    """The text that FastMCP's client gives a server's exception."""
    if type(error).__name__ == "NotFoundError":
        return f"Unknown tool: {tool_name!r}"
    return str(error)


# Processes.


@functools.lru_cache(maxsize=None)
def system_library():
    """The C library, where it can be called; found once, so that no forked child has to."""
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True)
    except Exception:
        return None


def set_process_option(option, value):
    prctl = getattr(system_library(), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def leave_network():
    """Moves this process, which has one thread, into a network of its own with loopback only."""
    try:
        enter_namespaces(CLONE_NEWNET)
        start_loopback()
    except OSError as error:
        raise HostError(
            f"--worker-network none cannot hold here: {error}; run as root (in a container, with the "
            "capability SYS_ADMIN) or where user namespaces are allowed, or leave it out"
        ) from None


def enter_namespaces(flags):
    """Gives this process, which has one thread, namespaces of its own.

    Where it may not have them, it has them in a user namespace of its own.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(flags)
    except PermissionError:
        unshare(CLONE_NEWUSER | flags)
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in maps.items():
            set_own_map(name, text)
        # The kernel forgets it with a change of rights.
        set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)


def set_own_map(name, text):
    """Says in a new user namespace which user or group of the one before is which."""
    path = f"/proc/self/{name}"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {os.strerror(error.errno)}") from None


def unshare(flags):
    """Gives this process namespaces of its own."""
    function = getattr(system_library(), "unshare", None)
    if function is None:
        raise OSError("this system or this Python has no unshare")
    check_status(function(flags), "unshare")


def start_loopback():
    """Lets a new network's only interface carry what is sent to 127.0.0.1."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        up = struct.unpack_from("16xH", flags)[0] | IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", up))


def forget_inherited_exits():
    """Exit handlers of the template are not those of its children."""
    atexit._clear()
    for finalizer in list(getattr(weakref.finalize, "_registry", {})):
        finalizer.atexit = False


def connect(address):
    """A connection to a socket of the server."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock


def enter_session(request):
    """Makes a forked child a process of its own; gives its connection."""
    os.setsid()
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What it starts and leaves alone is its own to end.
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    forget_inherited_exits()
    connection = Connection(connect(request["socket"]))
    write_to(request["socket"])
    prepare_place(request)
    return connection


def write_to(address):
    """Sends what this process writes to the server, for the session's log."""
    log = connect(address)
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    log.close()


def become_session(hosted, found, request, copying):
    """Turns a forked child into the worker of one session; does not return."""
    run_to_end(lambda: Session(hosted, enter_session(request), found, copying=copying).serve())


def run_to_end(serve):
    """Serves a session and ends the process with its exit status."""
    status = 1
    try:
        serve()
        status = 0
    except SystemExit as ended:
        status = exit_status(ended)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(status)


def exit_status(ended):
    """The exit status that a SystemExit asks for."""
    if ended.code is None:
        return 0
    if isinstance(ended.code, int):
        return ended.code & 0xFF
    print(ended.code, file=sys.stderr)
    return 1


def leave(status):
    """Ends the process with what its own exit handlers do, and nothing of its parent's."""
    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass
    flush_output()
    os._exit(status)


def memory_is_limited():
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY


def enter_groups(groups):
    """Enters control groups."""
    for group in groups:
        with open(group, "w", encoding="ascii") as file:
            file.write("0")


def prepare_place(request):
    """Enters the session's own groups, network and folder, and takes its limits."""
    enter_groups(request.get("groups") or ())
    if request.get("without_network"):
        leave_network()
    temporary = request.get("temporary")
    if temporary:
        os.environ["TMPDIR"] = temporary
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = None
    if request.get("directory"):
        os.chdir(request["directory"])
    limits = request.get("limits") or {}
    if limits:
        import resource

        kinds = {
            "memory": resource.RLIMIT_DATA,
            "cpu_seconds": resource.RLIMIT_CPU,
            "processes": resource.RLIMIT_NPROC,
        }
        for name, value in limits.items():
            _, hard = resource.getrlimit(kinds[name])
            # Past the first limit of CPU time comes SIGXCPU, past the second SIGKILL.
            last = value + 1 if name == "cpu_seconds" else value
            last = last if hard == resource.RLIM_INFINITY else min(last, hard)
            resource.setrlimit(kinds[name], (min(value, last), last))


def open_descriptors():
    """The descriptors of this process, each with what it leads to."""
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.add((int(name), os.readlink("/proc/self/fd/" + name)))
        except OSError:
            # The listing's own.
            pass
    return found


def shared_memory():
    """The parts of memory that a child would write to together with this process."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            lines = [line.split(maxsplit=5) for line in file]
    except OSError:
        return set()
    return {(each[0], each[-1].strip()) for each in lines if "w" in each[1] and each[1].endswith("s")}


def event_loops():
    """The event loops of this process that are not closed, but for those that its template has made."""
    found = [each for each in gc.get_objects() if issubclass(type(each), asyncio.AbstractEventLoop)]
    return [each for each in found if not each.is_closed()]


def is_renewable(loop):
    """Whether a loop is of asyncio's own kind, whose parts are known."""
    return isinstance(loop, asyncio.selector_events.BaseSelectorEventLoop)


def descriptors_of(loops):
    return {each.fileno() for loop in loops for each in (loop._selector, loop._ssock, loop._csock)}


def renew_loop(loop):
    """Gives an event loop descriptors of its own: those that a parent process has as well wake both."""
    if loop.is_closed():
        return
    old, woken, waking = loop._selector, loop._ssock.fileno(), loop._csock.fileno()
    loop._selector = selectors.DefaultSelector()
    for key in list(old.get_map().values()):
        if key.fd != woken:
            loop._selector.register(key.fileobj, key.events, key.data)
    old.close()
    # Signals wake the loop that handles them.
    wakes_at_signals = threading.current_thread() is threading.main_thread() and wakeup_descriptor() == waking
    loop._close_self_pipe()
    loop._make_self_pipe()
    if wakes_at_signals:
        signal.set_wakeup_fd(loop._csock.fileno(), warn_on_full_buffer=False)


def wakeup_descriptor():
    """Where signals are written to; -1 if nowhere."""
    present = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(present, warn_on_full_buffer=False)
    return present


def mount_folders(folders, mounted):
    """Shows each folder to this process alone at another's path, instead of what is mounted there."""

    def refuse(what):
        raise Unsupported(f"the environment cannot be forked: {what}")

    try:
        enter_namespaces(CLONE_NEWNS)
    except OSError as error:
        refuse(f"it has folders of its own, and this machine allows no mount namespace: {error}")
    try:
        mount("/", MS_REC | MS_PRIVATE)
        for folder, shown_at in folders:
            # A mount on the other would go with the other's folder.
            if mounted:
                unmount(shown_at)
            mount(shown_at, MS_BIND, folder)
    except OSError as error:
        refuse(f"its folders cannot be mounted: {error}")


def mount(place, flags, source=None):
    source = None if source is None else source.encode()
    check_status(system_library().mount(source, place.encode(), None, flags, None), f"mount {place}")


def unmount(place):
    check_status(system_library().umount2(place.encode(), MNT_DETACH), f"umount {place}")


def check_status(status, what):
    """Raises the error that a function of the system's library has left."""
    if status != 0:
        error = sys.modules["ctypes"].get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


class OpenFile:
    """A file or folder that is open, by one descriptor or several, and how to open it again."""

    def __init__(self, descriptor, path):
        self.descriptors, self.path = [descriptor], path
        self.about = os.fstat(descriptor)
        self.position, self.flags = position_and_flags(descriptor)

    def is_same(self, descriptor):
        """Whether a descriptor of the same path shares the position, as a duplicate does."""
        if not stat.S_ISREG(self.about.st_mode):
            return False
        os.lseek(self.descriptors[0], self.position + 1, os.SEEK_SET)
        moved = position_and_flags(descriptor)[0] == self.position + 1
        os.lseek(self.descriptors[0], self.position, os.SEEK_SET)
        return moved

    def is_database(self):
        """Whether it is one of SQLite's, which refuses to write to a file that it has not opened itself."""
        if not stat.S_ISREG(self.about.st_mode) or self.flags & os.O_ACCMODE == os.O_WRONLY:
            return False
        return os.pread(self.descriptors[0], 16, 0) == b"SQLite format 3\0"

    def reopen(self, folders):
        """Opens what is at its path now; the same file, unless that is in one of the folders."""
        try:
            again = os.open(self.path, self.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        except OSError as error:
            raise Unsupported(f"the environment cannot be forked: it has {self.path} open: {error}") from None
        own = any((self.path + "/").startswith(folder + "/") for folder in folders)
        if not own and not os.path.samestat(self.about, os.fstat(again)):
            says = f"it has a file open that was {self.path}, which is another file now"
            raise Unsupported(f"the environment cannot be forked: {says}")
        if stat.S_ISREG(self.about.st_mode):
            os.lseek(again, self.position, os.SEEK_SET)
        for descriptor in self.descriptors:
            os.dup2(again, descriptor, inheritable=os.get_inheritable(descriptor))
        os.close(again)


def position_and_flags(descriptor):
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        fields = dict(line.split(maxsplit=1) for line in file if ":" in line)
    return int(fields["pos:"]), int(fields["flags:"], 8)


class Copying:
    """Makes a process that goes on from the present state of a session's process.

    The copy is a child of the template, as every session's process is: the process between the two tells the
    template its number, and ends. What the kernel would let both share is opened again, or the copy is
    refused.
    """

    def __init__(self, adoption, descriptors, memory, loops):
        self.adoption = adoption
        """The pipe to the template."""
        self.descriptors, self.memory = descriptors, memory
        """What all sessions have from their template."""
        self.loops = loops
        """Event loops that the import has made."""
        self.files = []
        self.mounted = False
        """Whether this process is a copy, which has folders mounted."""

    def copy(self, worker, address, connection, own_loop):
        """The connection of the copy, in the copy; None in the original."""
        loops = {id(each): each for each in [own_loop, *self.loops, *event_loops()] if each is not None}
        loops = [each for each in loops.values() if not each.is_closed()]
        for loop in loops:
            if not is_renewable(loop):
                raise Unsupported(f"the environment cannot be forked: it has a {type(loop).__name__}")
        known = {connection.sock.fileno(), self.adoption, 0} | descriptors_of(loops)
        self.files = self.open_files(known)
        # What waits to be written to the log; what waits for another file is the copy's, too.
        flush_output((sys.__stdout__, sys.__stderr__))
        template, state = os.getppid(), random.getstate()
        timers = {kind: signal.getitimer(kind) for kind in TIMERS}
        # A process without a parent becomes a child of the template, and not of this one.
        set_process_option(PR_SET_CHILD_SUBREAPER, 0)
        try:
            between = os.fork()
            if between == 0:
                self.fork_again(worker)
            else:
                _, status = os.waitpid(between, 0)
        finally:
            set_process_option(PR_SET_CHILD_SUBREAPER, 1)
        if between != 0:
            if status != 0:
                raise HostError("the process between the original and its copy could not fork")
            return None
        become_child_of(template)
        # Python reseeds its generator in each child, and the kernel stops timers.
        random.setstate(state)
        for kind, (left, interval) in timers.items():
            signal.setitimer(kind, left, interval)
        connection.sock.close()
        for loop in loops:
            renew_loop(loop)
        copied = Connection(connect(address))
        write_to(address)
        return copied

    def open_files(self, known):
        """The files that have to be opened again. Refuses what two processes cannot both have."""

        def refuse(why):
            raise Unsupported("the environment cannot be forked: " + why)

        threads, started = thread_count(), children()
        if threads > 1:
            names = ", ".join(each.name for each in threading.enumerate())
            refuse(f"it runs {threads} threads ({names})")
        if started:
            numbers = ", ".join(map(str, sorted(started)))
            refuse(f"it has started processes that it has not waited for ({numbers})")
        for _, path in sorted(shared_memory() - self.memory):
            refuse(f"it shares memory with other processes ({path})")
        files = []
        for descriptor, target in sorted(open_descriptors() - self.descriptors):
            kind = os.fstat(descriptor).st_mode
            is_log = descriptor in (1, 2) and stat.S_ISSOCK(kind)
            if descriptor in known or is_log:
                continue
            if target.endswith(" (deleted)"):
                refuse(f"it has a deleted file open: {target}")
            elif target.startswith("/") and (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                same = [each for each in files if each.path == target and each.is_same(descriptor)]
                if same:
                    same[0].descriptors.append(descriptor)
                else:
                    files.append(OpenFile(descriptor, target))
                    if files[-1].is_database():
                        refuse(f"it has the SQLite database {target} open; close its connections first")
            elif not stat.S_ISCHR(kind):
                refuse(f"it has open what two processes cannot share: {target} (descriptor {descriptor})")
        return files

    def fork_again(self, worker):
        """Returns in the copy alone."""
        status = 1
        try:
            pid = os.fork()
            if pid == 0:
                return
            os.write(self.adoption, f"{worker} {pid}\n".encode())
            status = 0
        except OSError:
            pass
        os._exit(status)

    def enter(self, groups, folders):
        """Enters the copy's groups, and shows it its folders at the paths of the original's."""
        enter_groups(groups)
        if folders:
            try:
                directory = os.getcwd()
            except OSError as error:
                says = f"its working directory is gone: {error}"
                raise Unsupported(f"the environment cannot be forked: {says}") from None
            mount_folders(folders, self.mounted)
            self.mounted = True
            # By its path, and not as the folder that was there.
            os.chdir(directory)
        for each in self.files:
            each.reopen([path for _, path in folders])
        self.files = []


def become_child_of(template):
    """Waits until the template is the parent, and ends with it."""
    between = os.getppid()
    while between != template and os.getppid() == between:
        os.sched_yield()
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        os._exit(1)
    os.setsid()


class Template:
    """The process that has imported the environment and forks a child for each session."""

    def __init__(self, connection):
        self.connection = connection
        self.hosted = None
        self.found = []
        self.workers = {}
        self.own = set()
        self.adopted, self.adoption = os.pipe()
        """Sessions write here which process is the copy that they have made."""
        for descriptor in (self.adopted, self.adoption):
            os.set_blocking(descriptor, False)
        self.descriptors, self.memory = set(), set()
        self.loops = []
        """Event loops that the import has made."""
        self.ended = collections.deque()
        """Threads that ended, each with its exit status: the main thread reports them."""

    def load(self, request):
        prepare_place(request)
        self.hosted = Hosted(request)
        described = self.hosted.describe()
        self.found = generators()
        self.own = children()
        self.descriptors, self.memory = open_descriptors(), shared_memory()
        self.loops = [each for each in event_loops() if is_renewable(each)]
        gc.collect()
        gc.freeze()
        return described

    def run(self):
        wake, self.woken = os.pipe()
        for descriptor in (wake, self.woken):
            os.set_blocking(descriptor, False)
        self.await_children()
        set_process_option(PR_SET_CHILD_SUBREAPER, 1)
        while True:
            ready, _, _ = select.select([self.connection.sock, wake], [], [])
            if wake in ready:
                try:
                    os.read(wake, 4096)
                except BlockingIOError:
                    pass
                self.reap()
                while self.ended:
                    self.exited(*self.ended.popleft(), None)
            if self.connection.sock not in ready:
                continue
            while True:
                request = self.connection.receive()
                if request is None or request["op"] == "end":
                    return
                self.handle(request)
                if not self.connection.unread:
                    break

    def await_children(self):
        """Wakes the loop when a child ends; an import may have set these, too."""
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def handle(self, request):
        operation = request.pop("op")
        if operation == "load":
            self.connection.send(loaded_reply(lambda: self.load(request)))
            self.await_children()
        elif operation == "fork":
            self.fork(request)
        elif operation == "thread":
            threading.Thread(target=self.serve_session, args=[request], daemon=True).start()
        elif operation == "kill":
            self.kill(request["worker"])

    def serve_session(self, request):
        """The body of a session's thread."""
        status = 0
        try:
            Session(self.hosted, Connection(connect(request["socket"])), alone=False).serve()
        except SystemExit as ended:
            status = exit_status(ended)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            self.ended.append((request["worker"], status))
            os.write(self.woken, b".")

    def fork(self, request):
        flush_output()
        try:
            pid = os.fork()
        except OSError as error:
            self.exited(request["worker"], None, f"cannot fork: {error}")
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.connection.sock.close()
            for loop in self.loops:
                renew_loop(loop)
            copying = Copying(self.adoption, self.descriptors, self.memory, self.loops)
            become_session(self.hosted, self.found, request, copying)
        self.workers[pid] = request["worker"]

    def adopt(self):
        """Notes the copies that sessions have made of themselves: they are this process's children."""
        try:
            lines = os.read(self.adopted, READ_SIZE).decode()
        except BlockingIOError:
            return
        for line in lines.splitlines():
            worker, pid = line.split()
            self.workers[int(pid)] = int(worker)

    def kill(self, worker):
        self.adopt()
        for pid, each in self.workers.items():
            if each == worker:
                kill_process(pid)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.adopt()
            worker = self.workers.pop(pid, None)
            if worker is not None:
                self.kill_orphans()
                self.exited(worker, os.waitstatus_to_exitcode(status), None)

    def kill_orphans(self):
        """Ends what an ended worker has left: a living one is the parent of all that it started."""
        end_children(self.kept)

    def kept(self):
        """The children that are no orphans. A copy is noted before it becomes a child of this process."""
        self.adopt()
        return self.own | self.workers.keys()

    def exited(self, worker, status, error):
        ended = {"worker": worker, "status": status, "error": error}
        self.connection.send(json.dumps({"exited": ended}).encode())


def kill_process(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_children(kept):
    """Ends all children but those that `kept` gives, and what they leave to this process."""
    while True:
        living = children()
        ended = living - kept()
        if not ended:
            return
        for pid in ended:
            kill_process(pid)
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def flush_output(streams=None):
    """Writes what is buffered, so that no child writes it again; an import may have closed the streams."""
    for stream in streams or (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def children():
    """The numbers of this process's children."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        return set()


def loaded_reply(load):
    """The reply to "load": what was found, or why nothing can be served."""
    try:
        return b'{"ok":{"loaded":' + to_json(load()) + b"}}"
    except ModuleNotFoundError as error:
        more = {"module": error.name, "trace": traceback_of(error)}
        return error_reply("missing_module", error_text(error), **more)
    except HostError as error:
        return error_reply("host", str(error))
    except BaseException as error:
        says = f"{type(error).__name__}: {error_text(error)}"
        return error_reply("import", says, trace=traceback_of(error))


def close_inherited():
    """Closes what the shell left open for whoever it starts."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                # The listing's own.
                pass


def main():
    role = sys.argv.pop()
    close_inherited()
    connection = Connection(socket.socket(fileno=os.dup(0)))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # The script's own folder is no place to import from.
    del sys.path[0]
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    if role == "template":
        Template(connection).run()
        return
    template = Template(connection)
    request = connection.receive()
    if request is None:
        return
    reply = loaded_reply(lambda: template.load(request))
    loaded = reply.startswith(b'{"ok"')
    if loaded:
        flush_output()
        write_to(request["log"])
    connection.send(reply)
    if loaded:
        set_process_option(PR_SET_CHILD_SUBREAPER, 1)
        run_to_end(Session(template.hosted, connection, template.found).serve)


if __name__ == "__main__":
    main()
