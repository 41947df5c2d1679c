"""How it goes along, on standard error: a line for each event and a spinner while nothing happens."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from gridcloud.cli.frame import Frame
from gridcloud.cli.printing import error_console, plain

if TYPE_CHECKING:
    from gridcloud.service.documents import Event

__all__ = ["Steps", "describe_event", "print_story", "waiting"]


class Steps:
    """Shows the steps of something long; a context. With ``--json`` one JSON document a line."""

    def __init__(self, frame: Frame, waiting_for: str = "") -> None:
        self._json = frame.json
        self._console = error_console()
        self._status: Any = None
        self._waiting_for = waiting_for
        self._live = sys.stderr.isatty() and not frame.json

    def __enter__(self) -> Steps:
        if self._live:
            self._status = self._console.status(plain(self._waiting_for))
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        status, self._status = self._status, None
        if status is not None:
            status.stop()

    def wait_for(self, what: str) -> None:
        """Say what is being waited for; shown on a terminal only."""
        if self._status is not None:
            self._status.update(plain(what))

    def tell(self, message: str, *, style: str = "") -> None:
        """Say something that was done."""
        if self._json:
            self._print_json({"message": message})
        else:
            self._console.print(plain(message), style=style or None)

    def event(self, event: Event) -> None:
        """Show one event of a story."""
        if self._json:
            self._print_json(event.model_dump(mode="json"))
            return
        if not (self._live and event.type == "waiting"):
            for line in describe_event(event):
                self._console.print(line, style="dim" if event.type == "output" else None)
        self.wait_for(event.message.splitlines()[-1] if event.message else event.type)

    @staticmethod
    def _print_json(document: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(document), file=sys.stderr, flush=True)


async def print_story(frame: Frame, story: AsyncIterator[Event]) -> None:
    """Print each event with its time as it comes; with --json one document a line."""
    async for event in story:
        if frame.json:
            print(event.model_dump_json(), flush=True)
            continue
        for line in describe_event(event):
            print(f"{event.at:%Y-%m-%d %H:%M:%S} {line}", flush=True)


def describe_event(event: Event) -> list[str]:
    """Return an event in lines: output as it is, anything else with its type."""
    lines = plain(event.message).splitlines() or [""]
    if event.type == "output":
        return [f"  {line}" for line in lines]
    return [f"{event.type}: {lines[0]}", *(f"  {line}" for line in lines[1:])]


@contextlib.contextmanager
def waiting(frame: Frame, what: str) -> Iterator[None]:
    """Show a spinner on a terminal while the context is open."""
    with Steps(frame, what):
        yield
