"""Entries of a section of the configuration, over HTTP: what they are, and what a check of one tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel

from gridcloud.errors import GridcloudError
from gridcloud.instances.model import Finding
from gridcloud.service.access import Caller
from gridcloud.service.documents import Findings
from gridcloud.settings import ProviderSettings

__all__ = ["Checked", "check_entry", "list_entries"]

SECONDS = 60
"""Seconds for a check."""

Listed = TypeVar("Listed", bound=BaseModel)


class Checked(Protocol):
    """A driver."""

    async def check(self) -> Sequence[Finding]:
        """Try what there is."""


def list_entries(
    kind: type[Listed], entries: Mapping[str, ProviderSettings | GridcloudError], caller: Caller
) -> list[Listed]:
    """Return the entries of a section, with what is wrong with any of them, as documents of a kind."""
    listed = []
    for name, entry in entries.items():
        if isinstance(entry, GridcloudError):
            problem = str(entry) if caller.admin else "It is not set up rightly; an administrator sees why."
            listed.append(kind.model_validate({"name": name, "problem": problem}))
        else:
            shown = {"name": name, "driver": entry.driver, "location": entry.location}
            listed.append(kind.model_validate(shown))
    return listed


async def check_entry(name: str, find: Callable[[str], Checked]) -> Findings:
    """Return what the check of an entry tells. Raises NotFound where there is none."""
    try:
        driver = find(name)
        async with asyncio.timeout(SECONDS):
            return Findings(findings=list(await driver.check()))
    except TimeoutError:
        told = Finding(subject=name, ok=False, message=f"It did not answer within {SECONDS} s.")
    except GridcloudError as error:
        if error.status == 404:
            raise
        told = Finding(subject=name, ok=False, message=error.message, remedy=error.remedy)
    return Findings(findings=[told])
