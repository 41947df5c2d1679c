"""Load the entries of ``before_start:`` and run them in order before one session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gridcloud import plugins
from gridcloud.errors import Forbidden, GridcloudError, InvalidSettings, TimedOut, Unavailable
from gridcloud.hooks.driver import Hook, Undoing
from gridcloud.hooks.model import Context, Outcome

__all__ = ["Prepared", "load", "prepare"]

_log = logging.getLogger(__name__)

UNDOING = 15.0
"""Seconds that one hook may take to take back what it did."""


class Prepared:
    """What the hooks of one session have given, and how to take it back when the session does not start."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.outcome = Outcome()
        self._done: list[tuple[str, Hook, Outcome]] = []

    async def run(self, name: str, hook: Hook) -> None:
        """Run one more hook. Raises GridcloudError that names it."""
        outcome = await _run(name, hook, self.context)
        self._done.append((name, hook, outcome))
        self.outcome += outcome

    async def undo(self) -> None:
        """Take back what was done, the last first. Never raises; may be called again."""
        while self._done:
            name, hook, outcome = self._done.pop()
            if not isinstance(hook, Undoing):
                continue
            try:
                async with asyncio.timeout(UNDOING):
                    await hook.undo(self.context, outcome)
            except Exception as error:
                _log.error("the hook %s left something of %r: %s", name, self.context.user, error)


def load(document: Mapping[str, Any], folder: Path) -> Hook:
    """Make the hook of one entry, ``{use: NAME, …settings}``. Raises InvalidSettings, DriverUnavailable."""
    values = dict(document)
    name = values.pop("use", "")
    if not isinstance(name, str) or not name:
        raise InvalidSettings(
            f"An entry of before_start names no hook: {sorted(map(str, document))}.",
            remedy=f"Add `use:` with one of {', '.join(plugins.names('hooks'))}.",
        )
    driver: type[Hook] = plugins.load("hooks", name)
    try:
        settings = driver.Settings.model_validate(values)
    except ValidationError as error:
        told = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'it'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise InvalidSettings(f"The hook {name}: {'; '.join(told)}.") from None
    return driver(settings, folder)


async def prepare(entries: Sequence[Mapping[str, Any]], folder: Path, context: Context) -> Prepared:
    """Run the hook of each entry in turn, and return what they give together.

    All entries are loaded before the first one runs. When one fails, refuses or is cancelled, those before it are
    undone. Raises GridcloudError that names the hook and says why.
    """
    hooks = [(str(entry.get("use", "")), load(entry, folder)) for entry in entries]
    prepared = Prepared(context)
    try:
        await _run_all(prepared, hooks)
    except BaseException:
        await asyncio.shield(prepared.undo())
        raise
    return prepared


async def _run_all(prepared: Prepared, hooks: Iterable[tuple[str, Hook]]) -> None:
    for name, hook in hooks:
        await prepared.run(name, hook)


async def _run(name: str, hook: Hook, context: Context) -> Outcome:
    limit = hook.settings.limit
    try:
        async with asyncio.timeout(limit) as clock:
            outcome: object = await hook.run(context)
    except GridcloudError as error:
        error.message = f"The hook {name} refused the start: {error.message}"
        raise
    except TimeoutError as error:
        if not clock.expired():
            raise Unavailable(f"The hook {name} failed: {error or 'TimeoutError'}.") from error
        raise TimedOut(f"The hook {name} did not finish within {limit} seconds.") from error
    except Exception as error:
        _log.exception("the hook %s failed for %r", name, context.user)
        raise Unavailable(f"The hook {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(outcome, Outcome):
        raise Forbidden(f"The hook {name} refused the start: it returned {outcome!r:.80}.")
    return outcome
