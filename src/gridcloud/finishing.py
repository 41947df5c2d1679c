"""Wait for what must not be broken off."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = ["finish", "until_done", "whole"]

P = ParamSpec("P")
T = TypeVar("T")


async def finish(work: Awaitable[T]) -> T:
    """Wait for work to its end, however often this task is cancelled meanwhile; then raise CancelledError if it was.

    For what would be found by nobody, or known to nobody, if it were half done. Raises what the work raises; of who is
    cancelled, nobody hears that.
    """
    task = asyncio.ensure_future(work)
    if await until_done(task):
        if not task.cancelled():
            task.exception()  # it is known
        raise asyncio.CancelledError
    return task.result()


async def until_done(task: asyncio.Future[T]) -> bool:
    """Wait until a task is done; return whether this one was cancelled meanwhile, without a word of how it went."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def whole(verb: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a verb that is done to its end, however often its caller is cancelled: see `finish`."""

    @functools.wraps(verb)
    async def done(*args: P.args, **kwargs: P.kwargs) -> T:
        return await finish(verb(*args, **kwargs))

    return done
