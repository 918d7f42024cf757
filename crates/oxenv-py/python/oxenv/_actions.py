"""Actions and observations as the documents print them.

``to_payload()`` gives what goes over the wire; the reply follows the spelling of its request.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from ._values import Observation


class GenericAction(dict[str, Any]):
    """An action of any environment, from keyword arguments: ``GenericAction(code="print(1)")``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(kwargs)

    def __repr__(self) -> str:
        return f"GenericAction({', '.join(f'{name}={value!r}' for name, value in self.items())})"


@dataclass
class ListToolsAction:
    """Asks for the tools; the reply has them in ``observation["metadata"]["tools"]``."""

    def to_payload(self) -> dict[str, Any]:
        return {"type": "ListToolsAction"}


@dataclass
class CallToolAction:
    """Calls a tool.

    With `parameters`, as the journal prints it, the reply has ``observation["metadata"]["result"]`` or
    ``["error"]``. With `arguments`, as OpenEnv's own class has it, the observation has ``tool_name``,
    ``result`` and ``error``.
    """

    tool_name: str
    parameters: dict[str, Any] | None = None
    arguments: dict[str, Any] | None = None

    def to_payload(self) -> dict[str, Any]:
        if self.arguments is not None:
            if self.parameters is not None:
                raise ValueError("CallToolAction: give parameters or arguments, not both")
            return {"type": "call_tool", "tool_name": self.tool_name, "arguments": self.arguments}
        return {"type": "CallToolAction", "tool_name": self.tool_name, "parameters": self.parameters or {}}


@dataclass
class UnifiedAction:
    """The tools RFC's action: ``action_type`` is ``"tool"`` or ``"code"``."""

    action_type: str
    code: str | None = None
    tool_name: str | None = None
    tool_args: dict[str, Any] | None = None

    def to_payload(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class CodeAction:
    """Runs code: ``{"code": …}``."""

    code: str

    def to_payload(self) -> dict[str, Any]:
        return {"code": self.code}


class CodeObservation(Observation):
    """What code or a tool gave: ``stdout``, ``stderr``, ``exit_code``, and what else the environment
    shows."""

    @property
    def stdout(self) -> str:
        """What was printed; a tool's text. Empty if there is none."""
        return self.get("stdout") or ""

    @property
    def stderr(self) -> str:
        """What was printed as errors. Empty if there is none."""
        return self.get("stderr") or ""

    @property
    def exit_code(self) -> int:
        """0 if all went well, also where the environment gives none."""
        return self.get("exit_code") or 0

    @property
    def result(self) -> Any:
        """The value of the last expression, or the tool's result; ``None`` if there is none."""
        return self.get("result")

    @property
    def error(self) -> Any:
        """Why it failed; ``None`` if it did not."""
        return self.get("error")


@dataclass
class EchoAction:
    """Deprecated: call the tool ``echo_message`` instead."""

    message: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _deprecated("EchoAction")

    def to_payload(self) -> dict[str, Any]:
        return {"message": self.message}


@dataclass
class EchoObservation:
    """Deprecated: the observation of a tool call has the tool's result instead."""

    echoed_message: str = ""
    message_length: int = 0
    done: bool = False
    reward: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _deprecated("EchoObservation")


def _deprecated(name: str) -> None:
    instead = 'CallToolAction(tool_name="echo_message", parameters={"message": …})'
    message = f"{name} is deprecated; use {instead}"
    # The frames between: __post_init__ and the generated __init__.
    warnings.warn(message, DeprecationWarning, stacklevel=4)
