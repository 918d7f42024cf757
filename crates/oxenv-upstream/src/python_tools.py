"""Offers the public functions of a Python file as MCP tools over stdin and stdout.

Started by oxenv as `python3 -c THIS FILE`; with `--reload` behind it, the file is imported again when it or
another module of its folder has changed. Needs nothing but the standard library of Python 3.9.
Calls run one after the other on the main thread; a second thread reads, answers pings and cancels.
Whatever the functions print goes to stderr.
"""

import asyncio
import collections.abc
import dataclasses
import decimal
import enum
import importlib.util
import inspect
import json
import math
import os
import queue
import signal
import sys
import threading
import traceback
import types
import typing
import uuid

# How often files are looked at while there is nothing to do.
POLL_SECONDS = 1.0
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
INVALID_PARAMS, METHOD_NOT_FOUND, INTERNAL_ERROR = -32602, -32601, -32603
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", bytes: "string", type(None): "null"}
ABSTRACT_ARRAYS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set)
ARRAYS = (list, tuple, set, frozenset, *ABSTRACT_ARRAYS)
OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
SCALARS = (str, int, float, type(None))
KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Cancelled(BaseException):
    """The caller does not wait for the running call any more."""


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.code = code
        self.data = data


class Misfit(Exception):
    """A value that JSON has no place for."""


# Types


def schema(hint, above=()):
    """The JSON Schema of a type; an empty one for types that have none. `above` are the records it is in."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "__metadata__"):
        texts = [text for text in hint.__metadata__ if isinstance(text, str)]
        return {**schema(inner[0], above), **({"description": texts[0]} if texts else {})}
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin is typing.Literal:
        return choices(list(inner))
    if origin in UNIONS:
        return {"anyOf": [schema(one, above) for one in inner]}
    if hint in ARRAYS or origin in ARRAYS:
        items = [one for one in inner if one is not Ellipsis]
        if (hint is tuple or origin is tuple) and Ellipsis not in inner and len(items) > 0:
            count = {"minItems": len(items), "maxItems": len(items)}
            return {"type": "array", "prefixItems": [schema(one, above) for one in items], **count}
        return {"type": "array", **({"items": schema(items[0], above)} if items else {})}
    if hint in OBJECTS or origin in OBJECTS:
        values = {"additionalProperties": schema(inner[1], above)} if len(inner) > 1 else {}
        return {"type": "object", **values}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return choices([member.value for member in hint])
    if hint in above:
        return {"type": "object"}
    if dataclasses.is_dataclass(hint):
        fields = [(field, hints(hint).get(field.name)) for field in dataclasses.fields(hint) if field.init]
        required = [field.name for field, _ in fields if no_default(field)]
        return record({field.name: schema(of, (*above, hint)) for field, of in fields}, required)
    if typing.is_typeddict(hint) if hasattr(typing, "is_typeddict") else False:
        fields = {name: schema(of, (*above, hint)) for name, of in hints(hint).items()}
        return record(fields, sorted(hint.__required_keys__))
    return {}


def choices(values):
    names = {PLAIN.get(type(value)) for value in values}
    return {"enum": values, **({"type": names.pop()} if len(names) == 1 and None not in names else {})}


def record(properties, required):
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def no_default(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def hints(thing):
    """The type hints; where one cannot be resolved, those that are types as they stand."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:
        found = getattr(thing, "__annotations__", {})
        return {name: hint for name, hint in found.items() if not isinstance(hint, str)}


def revive(value, hint):
    """Makes of JSON what the function asked for; where it does not fit, the value stays as it is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "__metadata__"):
        return revive(value, inner[0])
    if origin in UNIONS:
        fitting = [one for one in inner if fits(value, one)]
        return revive(value, fitting[0]) if fitting else value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        of = hints(hint)
        return hint(**{name: revive(field, of.get(name)) for name, field in value.items()})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if isinstance(value, list):
        items = [one for one in inner if one is not Ellipsis]
        if (origin is tuple) and Ellipsis not in inner and len(items) == len(value):
            return tuple(revive(one, of) for one, of in zip(value, items))
        values = [revive(one, items[0]) for one in value] if items else value
        container = origin or hint
        return container(values) if container in (tuple, set, frozenset) else values
    if isinstance(value, dict) and len(inner) > 1:
        return {name: revive(one, inner[1]) for name, one in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is bytes and isinstance(value, str):
        return value.encode()
    return value


def fits(value, hint):
    kind = schema(hint).get("type")
    kinds = {"null": type(None), "string": str, "boolean": bool, "array": list, "object": dict}
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return kind not in kinds or isinstance(value, kinds[kind])


# Functions


class Function:
    """A function as a tool."""

    def __init__(self, name, function):
        self.function = function
        self.hints = hints(function)
        self.signature = inspect.signature(function)
        properties, required = {}, []
        for parameter in self.signature.parameters.values():
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                continue
            properties[parameter.name] = self.property(parameter)
            if parameter.default is inspect.Parameter.empty:
                required.append(parameter.name)
        kinds = {parameter.kind for parameter in self.signature.parameters.values()}
        self.open = inspect.Parameter.VAR_KEYWORD in kinds
        arguments = {**record(properties, required), **({} if self.open else {"additionalProperties": False})}
        self.tool = {"name": name, "description": inspect.getdoc(function) or "", "inputSchema": arguments}

    def property(self, parameter):
        found = schema(self.hints.get(parameter.name, typing.Any))
        if parameter.default is not inspect.Parameter.empty:
            try:
                found = {**found, "default": json.loads(dump(parameter.default))}
            except (TypeError, ValueError):
                pass
        return found

    def call(self, arguments):
        positional, keywords = [], {}
        for name, value in arguments.items():
            parameter = self.signature.parameters.get(name)
            if parameter is None and not self.open:
                raise Refused(INVALID_PARAMS, f"{self.tool['name']} has no argument '{name}'")
            keywords[name] = revive(value, self.hints.get(name)) if parameter is not None else value
        for parameter in self.signature.parameters.values():
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.name in keywords:
                positional.append(keywords.pop(parameter.name))
        try:
            self.signature.bind(*positional, **keywords)
        except TypeError as error:
            raise Refused(INVALID_PARAMS, f"{self.tool['name']}: {error}") from None
        result = self.function(*positional, **keywords)
        return asyncio.run(result) if inspect.iscoroutine(result) else result


def load(path):
    """The public functions of a file, in its order."""
    folder, file = os.path.split(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = os.path.splitext(file)[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    names = getattr(module, "__all__", None)
    if names is None:
        own = lambda thing: inspect.isfunction(thing) and thing.__module__ == name
        names = [key for key, thing in vars(module).items() if own(thing) and not key.startswith("_")]
    return {name: Function(name, getattr(module, name)) for name in names if callable(getattr(module, name))}


class WatchedFile:
    """The file of the functions, and the modules of its folder that it has imported."""

    def __init__(self, path):
        self.path, self.folder = os.path.abspath(path), os.path.dirname(os.path.abspath(path))
        self.problem = None
        """Why it could not be imported when it was last tried."""
        self.stamps = self.look()

    def modules(self):
        """The names of the modules of the folder, with their files."""
        found = {}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and os.path.abspath(file).startswith(self.folder + os.sep):
                found[name] = file
        return found

    def look(self):
        """When each file was changed, and how long it is."""
        stamps = {}
        for file in {self.path, *self.modules().values()}:
            try:
                about = os.stat(file)
                stamps[file] = (about.st_mtime_ns, about.st_size)
            except OSError:
                stamps[file] = None
        return stamps

    def reload(self):
        """The functions, if files have changed since and can be imported; else None."""
        stamps = self.look()
        if stamps == self.stamps:
            return None
        for name in self.modules():
            del sys.modules[name]
        try:
            functions, self.problem = load(self.path), None
        except BaseException as error:
            traceback.print_exc()
            functions, self.problem = None, f"{type(error).__name__}: {error}"
        self.stamps = {**stamps, **self.look()}
        return functions


# Results


def dump(value):
    made = json.dumps(value, allow_nan=False, default=plain)
    if "\\ud" in made:
        # Half a character is no text (RFC 8259, section 8.2). Raises UnicodeEncodeError, a ValueError.
        json.dumps(value, allow_nan=False, default=plain, ensure_ascii=False).encode()
    return made


def is_text(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value):
    """Makes JSON of what json does not know. Raises TypeError or ValueError where there is none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    if isinstance(value, collections.abc.Set):
        return sorted(value, key=repr)
    if isinstance(value, (bytes, bytearray)):
        return value.decode()
    if isinstance(value, collections.abc.Sequence):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    # Arrays and numbers of numpy and its like, models of pydantic, dates.
    for name in ("tolist", "item", "model_dump", "isoformat"):
        convert = getattr(value, name, None)
        if callable(convert) and not isinstance(value, type):
            return convert()
    raise TypeError(f"{type(value).__name__} is no JSON")


def simplified(value, at):
    """What `plain` makes of a value and all in it, keys too. Raises Misfit, which says where."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Misfit(f"{at} is {value}")
    if isinstance(value, str) and not is_text(value):
        raise Misfit(f"{at} has half a character, a lone surrogate")
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, dict):
        return {key_of(key, at): simplified(one, f"{at}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [simplified(one, f"{at}[{index}]") for index, one in enumerate(value)]
    try:
        made = plain(value)
    except (TypeError, ValueError):
        raise Misfit(f"{at} is of the type {type(value).__name__}") from None
    return simplified(made, at)


def key_of(key, at):
    made = key if isinstance(key, SCALARS) else simplified(key, f"a key of {at}")
    if not isinstance(made, SCALARS):
        raise Misfit(f"a key of {at} is of the type {type(key).__name__}")
    if isinstance(made, str) and not is_text(made):
        raise Misfit(f"a key of {at} has half a character, a lone surrogate")
    return made


def json_of(value):
    """The JSON of what a function returned. Raises Misfit."""
    try:
        return dump(value)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return dump(simplified(value, "it"))
    except RecursionError:
        raise Misfit("it is nested too deeply, or holds itself") from None


def result_of(name, value):
    """A result of `tools/call`. A value that is no object is wrapped by oxenv."""
    if value is None:
        return {"content": []}
    if isinstance(value, str) and is_text(value):
        return {"content": [text(value)], "structuredContent": value}
    try:
        as_json = json_of(value)
    except Misfit as misfit:
        says = (
            f"what '{name}' returned cannot be JSON: {misfit}; "
            "return finite numbers, texts, lists and dicts"
        )
        raise Refused(INTERNAL_ERROR, says, {"oxenv": {"code": "INVALID_RESULT"}}) from None
    return {"content": [text(as_json)], "structuredContent": json.loads(as_json)}


def error_of(error):
    says = traceback.format_exception_only(type(error), error)[-1].strip()
    says = says.encode(errors="backslashreplace").decode()
    return {"content": [text(says)], "isError": True}


def text(value):
    return {"type": "text", "text": value}


# The server


class Server:
    def __init__(self, functions, source, sink, watched=None):
        self.functions = functions
        self.watched = watched
        self.source = source
        self.sink = sink
        self.writing = threading.Lock()
        self.waiting = queue.Queue()
        self.dropped = set()
        self.running = None
        self.interruptible = False
        self.ended = False

    def send(self, identifier, body):
        self.write({"jsonrpc": "2.0", "id": identifier, **body})

    def write(self, message):
        line = dump(message).encode() + b"\n"
        with self.writing:
            while line:
                line = line[os.write(self.sink, line):]

    def read(self):
        """The second thread: takes what comes, until the end."""
        for line in self.source:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            method = message.get("method") if isinstance(message, dict) else None
            if method == "ping":
                self.send(message.get("id"), {"result": {}})
            elif method == "notifications/cancelled":
                self.cancel((message.get("params") or {}).get("requestId"))
            elif method is not None and "id" in message:
                self.waiting.put(message)
        self.ended = True
        self.waiting.put(None)
        self.cancel(self.running)

    def cancel(self, identifier):
        if identifier is not None:
            self.dropped.add(identifier)
            # Runs `interrupt` on the main thread, also when that is within a system call.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def interrupt(self, *_):
        if self.interruptible and self.running in self.dropped:
            self.interruptible = False
            raise Cancelled

    def serve(self):
        signal.signal(signal.SIGINT, self.interrupt)
        threading.Thread(target=self.read, daemon=True).start()
        while True:
            message = self.next()
            if self.ended:
                return
            self.running = message["id"]
            if self.running not in self.dropped:
                self.answer(message)
            self.dropped.discard(self.running)
            self.running = None

    def next(self):
        """The next request. Files that have changed meanwhile are imported again first."""
        while self.watched is not None:
            try:
                message = self.waiting.get(timeout=POLL_SECONDS)
            except queue.Empty:
                message = None
            functions = self.watched.reload()
            if functions is not None:
                self.functions = functions
                self.write({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            if message is not None or self.ended:
                return message
        return self.waiting.get()

    def answer(self, message):
        try:
            body = {"result": self.handle(message["method"], message.get("params") or {})}
        except Refused as refusal:
            data = {"data": refusal.data} if refusal.data is not None else {}
            body = {"error": {"code": refusal.code, "message": str(refusal), **data}}
        except Cancelled:
            return
        self.send(message["id"], body)

    def handle(self, method, params):
        if method == "initialize":
            asked = params.get("protocolVersion")
            return {
                "protocolVersion": asked if asked in REVISIONS else REVISIONS[-1],
                "capabilities": {"tools": {"listChanged": True} if self.watched else {}},
                "serverInfo": {"name": "oxenv-python", "version": "1"},
            }
        if method == "tools/list":
            return {"tools": [function.tool for function in self.functions.values()]}
        if method == "tools/call":
            return self.call(params.get("name"), params.get("arguments") or {})
        if method == "oxenv/enter":
            os.chdir(params["folder"])
            return {}
        raise Refused(METHOD_NOT_FOUND, f"Method not found: {method}")

    def call(self, name, arguments):
        if self.watched is not None and self.watched.problem is not None:
            says = f"{self.watched.path} has changed and cannot be imported: {self.watched.problem}"
            raise Refused(INTERNAL_ERROR, says)
        function = self.functions.get(name)
        if function is None:
            raise Refused(INVALID_PARAMS, f"Unknown tool: {name}")
        try:
            self.interruptible = True
            value = function.call(arguments)
            self.interruptible = False
            return result_of(name, value)
        except (Refused, Cancelled):
            raise
        except BaseException as error:
            self.interruptible = False
            traceback.print_exc()
            return error_of(error)
        finally:
            self.interruptible = False


def main():
    # The pipes are the protocol's own; whatever else reads or writes must not disturb it.
    source, sink = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if "--reload" in sys.argv[2:]:
        # Python takes a file for unchanged if it has the same length and was changed in the same second.
        sys.dont_write_bytecode = True
    functions = load(sys.argv[1])
    watched = WatchedFile(sys.argv[1]) if "--reload" in sys.argv[2:] else None
    Server(functions, source, sink, watched).serve()


if __name__ == "__main__":
    main()
