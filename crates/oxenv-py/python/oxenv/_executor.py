"""Python code of an agent, run in this process."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CodeResult:
    """What running code gave.

    Attributes:
        stdout: What it printed.
        stderr: What it printed as errors, and the traceback if it failed.
        exit_code: 0 if it did not fail; else 1, or what it gave to ``exit``.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class PythonExecutor:
    """Runs Python code; variables live from one run to the next, until `clear`.

    It is no sandbox: code can do what this process can. Under ``oxenv serve`` that is the process of one
    session.

    Args:
        functions: What code may call by name, such as the tools of `LocalMCPServer.get_callables`.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = dict(functions or {})
        self._variables: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets all variables."""
        self._variables = {"__name__": "__main__", **self._functions}

    def run(self, code: str | None) -> CodeResult:
        """Runs code. What it raises is in the result."""
        out, err = io.StringIO(), io.StringIO()
        exit_code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                exec(compile(code or "", "<action>", "exec"), self._variables)
            except SystemExit as ended:
                exit_code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except Exception as error:
                # The first entry is this file's.
                trace = error.__traceback__.tb_next if error.__traceback__ else None
                traceback.print_exception(type(error), error, trace, file=err)
                exit_code = 1
        return CodeResult(out.getvalue(), err.getvalue(), exit_code)
