"""Load the entries of ``configure:`` and run them in order on one machine."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gridcloud import plugins
from gridcloud.configurers.driver import Configurer, ConfigurerSettings, Report, entry
from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Connection
from gridcloud.errors import InvalidSettings

__all__ = ["check_all", "load", "run_all"]


def load(document: Mapping[str, Any], folder: Path | None) -> Configurer:
    """Make the configurer of one entry, ``{use: NAME, …settings}``. Nothing is read or started yet.

    ``folder`` is where relative paths start; None for an entry that came with a request, which may name no files
    of this computer. Raises InvalidSettings, DriverUnavailable.
    """
    name, values = entry(document)
    if not name:
        raise InvalidSettings(
            f"An entry of configure names no configurer: {sorted(map(str, document))}.",
            remedy=f"Add `use:` with one of {', '.join(plugins.names('configurers'))}.",
        )
    driver: type[Configurer] = plugins.load("configurers", name)
    return driver(_validate(name, driver.Settings, values), folder)


async def check_all(entries: Sequence[Mapping[str, Any]], folder: Path | None) -> None:
    """Raise InvalidSettings or DriverUnavailable for the first entry that cannot work."""
    for document in entries:
        await load(document, folder).check()


async def run_all(
    entries: Sequence[Mapping[str, Any]],
    folder: Path | None,
    connection: Connection,
    facts: Facts,
    report: Report,
) -> None:
    """Configure a machine with each entry in turn, telling every line. May be repeated.

    Raises what `load` and `Configurer.configure` raise; what follows the entry that failed is left undone.
    """
    configurers = [load(document, folder) for document in entries]
    for number, (document, configurer) in enumerate(zip(entries, configurers, strict=True), 1):
        report(f"configuring with {entry(document)[0]} ({number} of {len(entries)})")
        await configurer.configure(connection, facts, report)


def _validate(name: str, kind: type[ConfigurerSettings], values: Mapping[str, Any]) -> ConfigurerSettings:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidSettings(_describe(name, kind, error)) from None


def _describe(name: str, kind: type[ConfigurerSettings], error: ValidationError) -> str:
    """Say what is wrong with an entry; its values are left out, for they may be secret."""
    told = []
    for problem in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(place, kind.model_fields, n=1, cutoff=0.5)
            known = (
                f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(kind.model_fields))}."
            )
            told.append(f"the configurer {name!r} knows no {place!r}; {known}")
        else:
            words = problem["msg"].removeprefix("Value error, ").rstrip(".")
            told.append(f"the configurer {name!r}{f', {place}' if place else ''}: {words}.")
    text = " ".join(told)
    return text[:1].upper() + text[1:]
