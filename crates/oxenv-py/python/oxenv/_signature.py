"""The arguments of a Python function as a JSON Schema, and a check of what a caller gives.

Without a type annotation an argument takes any value. Types that JSON has no word for are not checked.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ._errors import InvalidArguments

_PLAIN: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (),
    "object": (Mapping,),
}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def input_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of a function's arguments.

    Raises:
        TypeError: It has an argument that cannot be given by name.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in _NAMED:
            raise TypeError(
                f"{function.__name__}: '{parameter}' cannot be given by name; a tool has named arguments only"
            )
        properties[name] = type_schema(hints.get(name, Any))
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, (str, int, float, bool)):
            properties[name]["default"] = parameter.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def type_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; empty for one that JSON has no word for."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [text for text in inner[1:] if isinstance(text, str)]
        return {**type_schema(inner[0]), **({"description": texts[0]} if texts else {})}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [type_schema(each) for each in inner]}
    base = origin or hint
    if not isinstance(base, type):
        return {}
    if issubclass(base, Mapping):
        return {"type": "object"}
    if issubclass(base, Sequence) and not issubclass(base, (str, bytes)):
        return {"type": "array", **({"items": type_schema(inner[0])} if len(inner) == 1 else {})}
    return {}


def check_arguments(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Checks what a caller gives.

    Raises:
        InvalidArguments: It does not fit; all that is wrong is said.
    """
    properties = schema["properties"]
    wrong = [f"'{name}' is missing" for name in schema["required"] if name not in arguments]
    for name, value in arguments.items():
        if name not in properties:
            known = ", ".join(properties) or "none"
            wrong.append(f"'{name}' is no argument; there are: {known}")
        elif not _fits(value, properties[name]):
            wrong.append(f"'{name}' is {type(value).__name__}, and not {_describe(properties[name])}")
    if wrong:
        raise InvalidArguments(f"tool '{tool}': {'; '.join(wrong)}", kind="action", delivered="no")


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "type" not in schema:
        return True
    wanted = schema["type"]
    if isinstance(value, bool) and wanted != "boolean":
        return False
    if isinstance(value, (list, tuple)):
        return wanted == "array" and all(_fits(item, schema.get("items", {})) for item in value)
    return isinstance(value, _PYTHON[wanted])


def _describe(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(each) for each in schema["anyOf"])
    if "enum" in schema:
        return f"one of {schema['enum']}"
    items = f" of {_describe(schema['items'])}" if schema.get("items") else ""
    return f"{schema.get('type', 'anything')}{items}"
