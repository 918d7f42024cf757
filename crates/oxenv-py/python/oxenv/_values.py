"""What requests take and give: results, tools, observations, and how they cross to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ._errors import ToolFailed

ObsT = TypeVar("ObsT")

#: A step as the native module gives it: observation, reward, done, metadata, number, whether it is a repeat.
NativeStep = tuple[str, "bool | int | float | None", bool, "str | None", "int | None", bool]
#: Name, title, description, schema of the arguments, schema of the result, hints.
NativeTool = tuple[str, "str | None", str, str, "str | None", "str | None"]
#: The result in MCP's words, its value, its text, whether the tool failed, what it wants as input.
NativeToolResult = tuple[str, str, str, bool, "str | None"]


@dataclass(slots=True)
class StepResult(Generic[ObsT]):
    """What a reset or a step gives.

    Attributes:
        observation: What the environment shows.
        reward: ``None`` is no reward, which is not 0. A boolean or an integer stays one.
        done: Whether the episode has ended.
        metadata: The observation's metadata, where the server gives it beside the observation.
        seq: The number of the request within its session, where the server gives one.
        repeated: Whether this is the first reply to a request that was repeated.
    """

    observation: ObsT
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None
    seq: int | None = None
    repeated: bool = False


class Record(dict[str, Any]):
    """An object of the environment: a dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {sorted(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Observation(Record):
    """What an environment shows, with ``done``, ``reward`` and ``metadata``.

    A mapping is taken as it is. Made from keyword arguments, as environments do it, those that are not given
    are ``False``, ``None`` and empty.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        whole = {"done": False, "reward": None, "metadata": {}} if given is None else given
        super().__init__(whole, **fields)


class State(Record):
    """The state of an episode: ``episode_id``, ``step_count`` and what the environment adds.

    A mapping is taken as it is. Made from keyword arguments, as environments do it, those that are not given
    are ``None`` and 0.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        super().__init__({"episode_id": None, "step_count": 0} if given is None else given, **fields)


@dataclass(frozen=True)
class Tool:
    """A function that the agent may call.

    Attributes:
        name: Its unique name.
        description: What it does, for the model; may be empty.
        input_schema: JSON Schema of its arguments.
        title: A title for people.
        output_schema: JSON Schema of its structured result.
        annotations: MCP's hints about its behaviour.
    """

    name: str
    description: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)
    title: str | None = None
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


@dataclass(frozen=True)
class ToolResult:
    """What a tool gave back.

    Attributes:
        data: The value for a program; ``None`` if there is none.
        text: The text for a person or a model: its text blocks, one per line.
        content: All blocks, as MCP has them: text, images, audio, resources.
        structured_content: The structured part as MCP has it, an object.
        is_error: Whether the tool says that it failed.
        meta: Metadata of the tool's server.
        input_required: What the tool wants before it goes on (MCP 2026-07-28); the other parts are then
            empty.
    """

    data: Any = None
    text: str = ""
    content: list[dict[str, Any]] = field(default_factory=list)
    structured_content: dict[str, Any] | None = None
    is_error: bool = False
    meta: dict[str, Any] | None = None
    input_required: dict[str, Any] | None = None


@dataclass(frozen=True)
class Conflict:
    """Two endpoints offer a tool of the same name; ``owner`` is the URL of the one that gets the calls."""

    name: str
    owner: str
    shadowed: list[str]


@dataclass(frozen=True)
class Endpoint:
    """How an endpoint is.

    Attributes:
        url: Its URL, without user and password, and with ``***`` for the values of its query.
        tools: How many tools it offers, those that another owns included.
        error: Why it cannot be used; ``None`` if it can.
        code: The same for programs, such as ``"CONNECT_FAILED"``.
        absent: Whether it answered that there is nothing (status 404).
    """

    url: str
    tools: int
    error: str | None
    code: str | None
    absent: bool


@dataclass(frozen=True)
class ToolListing:
    """The tools of many endpoints, the names that more than one offers, and how each endpoint is."""

    tools: list[Tool]
    conflicts: list[Conflict]
    endpoints: list[Endpoint]


def to_json(value: Any) -> str:
    """JSON text; models and dataclasses within become objects.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: Something cannot be said in JSON.
    """
    return _encode(value)


def to_plain(value: Any) -> Any:
    """A model, a dataclass or another object as what JSON has."""
    payload = getattr(value, "to_payload", None)
    if payload is not None:
        return payload()
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return vars(value)
    kind = type(value).__name__
    raise TypeError(f"{kind} cannot be said in JSON; give a dictionary, a dataclass or a model")


def from_json(text: str) -> Any:
    """What JSON text says."""
    return _decode(text)[0]


_decode = json.JSONDecoder().raw_decode
#: Made once: making an encoder costs more than a small action's text.
_encode = json.JSONEncoder(default=to_plain, allow_nan=False, separators=(",", ":")).encode


def to_tool(native: NativeTool) -> Tool:
    name, title, description, schema, output, annotations = native
    return Tool(
        name=name,
        description=description,
        input_schema=from_json(schema),
        title=title,
        output_schema=from_json(output) if output else None,
        annotations=from_json(annotations) if annotations else None,
    )


def to_tools(native: Iterable[NativeTool]) -> list[Tool]:
    return [to_tool(tool) for tool in native]


def to_tool_result(native: NativeToolResult) -> ToolResult:
    whole, data, text, is_error, wanted = native
    result = from_json(whole)
    return ToolResult(
        data=from_json(data),
        text=text,
        content=result["content"],
        structured_content=result.get("structuredContent"),
        is_error=is_error,
        meta=result.get("_meta"),
        input_required=from_json(wanted) if wanted else None,
    )


def check_succeeded(name: str, result: ToolResult) -> ToolResult:
    """The result, unless the tool says that it failed.

    Raises:
        ToolFailed: It does; ``data`` is the result as a dictionary.
    """
    if not result.is_error:
        return result
    message = f"tool {name!r} failed: {result.text or 'it does not say why'}"
    raise ToolFailed(message, kind="action", delivered="yes", data=dataclasses.asdict(result))


def to_listing(native: tuple[list[NativeTool], str, str]) -> ToolListing:
    tools, conflicts, endpoints = native
    return ToolListing(
        tools=to_tools(tools),
        conflicts=[Conflict(**conflict) for conflict in from_json(conflicts)],
        endpoints=[Endpoint(**endpoint) for endpoint in from_json(endpoints)],
    )
