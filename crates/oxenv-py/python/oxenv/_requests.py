"""One request, waited for by a thread or by an event loop.

Invariant: both ways run the same native request; giving up, by Ctrl-C or by cancelling the task, cancels it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ._native import CompletionQueue, Request, forked, shut_down

T = TypeVar("T")

#: How many seconds the exit of a process waits until its sessions and instances have ended.
EXIT_LIMIT_S = 15.0

running_loop = asyncio._get_running_loop


class _LoopQueue:
    """The completions of one event loop, and the futures that wait for what comes in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.completions = CompletionQueue()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        loop.add_reader(self.completions.fileno(), self.deliver)

    def deliver(self) -> None:
        for ticket, good, value in self.completions.take():
            future = self.waiting.pop(ticket, None)
            if future is None or future.done():
                continue
            if good:
                future.set_result(value)
            else:
                future.set_exception(value)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopQueue] = WeakKeyDictionary()


async def await_request(request: Request, convert: Callable[[Any], T]) -> T:
    """Starts a request and awaits its reply. Cancelling the task cancels the request."""
    loop = asyncio.get_running_loop()
    queue = _queues.get(loop)
    if queue is None or not queue.completions.ours:
        queue = _queues[loop] = _LoopQueue(loop)
    ticket = queue.completions.start(request)
    future: asyncio.Future[Any] = loop.create_future()
    queue.waiting[ticket] = future
    try:
        reply = await future
    finally:
        if queue.waiting.pop(ticket, None) is not None:
            queue.completions.cancel(ticket)
    return convert(reply)


def run_request(request: Request, convert: Callable[[Any], T], blocking: bool) -> T | Coroutine[Any, Any, T]:
    """Waits for the reply, or gives a coroutine for it if this thread runs an event loop and may not be
    blocked."""
    if blocking or running_loop() is None:
        return convert(request.wait())
    return await_request(request, convert)


def no_result(reply: None) -> None:
    """For requests that give nothing."""


atexit.register(shut_down, EXIT_LIMIT_S)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)
