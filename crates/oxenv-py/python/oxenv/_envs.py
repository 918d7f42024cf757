"""Clients of environments by name."""

from __future__ import annotations

from typing import Any

from ._actions import CallToolAction, CodeAction, CodeObservation, UnifiedAction
from ._generic import RecordEnvClient
from ._values import Observation


class EchoEnv(RecordEnvClient[Any, Observation]):
    """The echo environment: its tools say back what they are told.

    The results of its methods have what the tool gave in ``observation.metadata["result"]``.
    """

    def echo_message(self, message: str) -> Any:
        """Calls ``echo_message`` as a step; the result is the message."""
        return self.step(CallToolAction(tool_name="echo_message", parameters={"message": message}))

    def echo_with_length(self, message: str) -> Any:
        """Calls ``echo_with_length`` as a step; the result has the message and its length."""
        return self.step(CallToolAction(tool_name="echo_with_length", parameters={"message": message}))


class CodingEnv(RecordEnvClient["CodeAction | UnifiedAction | dict[str, Any]", CodeObservation]):
    """An environment that runs code and has tools; see `CodeAction` and `UnifiedAction`.

    An image without a code engine refuses code with `Unsupported`; its tools work.
    """

    _observation = CodeObservation
