"""Change the configuration: by the service where one runs, in the file where none does. Both keep the history."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gridcloud.cli.frame import Frame
from gridcloud.cli.printing import error_console, plain
from gridcloud.cli.provider import read_settings
from gridcloud.errors import InvalidRequest, NotFound, Unreachable
from gridcloud.service.configuration_documents import Edit, Verb, Written

if TYPE_CHECKING:
    from gridcloud.client.configuration import Configuration
    from gridcloud.service.configuration_desk import ConfigurationDesk

__all__ = ["apply", "changes", "configuration_of", "entry_of", "read_entry", "tell", "the_edit", "who"]


@contextlib.asynccontextmanager
async def configuration_of(frame: Frame) -> AsyncIterator[Configuration | ConfigurationDesk]:
    """Yield what looks at and changes the configuration. A service that is named and silent is never gone round."""
    from gridcloud.service.configuration_desk import ConfigurationDesk

    try:
        client = await frame.connect(alone=True)
    except Unreachable:
        if frame.is_remote:
            raise
        yield ConfigurationDesk(frame.config_path, frame.data_folder)
        return
    async with client:
        yield client.configuration


def who() -> str:
    """Return who runs this command, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


async def apply(frame: Frame, edits: Sequence[Edit], done: str) -> int:
    """Write changes and say what was done."""
    async with configuration_of(frame) as configuration:
        written = await configuration.edit(edits, by=who())
    tell(frame, written, done)
    return 0


def tell(frame: Frame, written: Written, done: str) -> None:
    """Say what became of a change."""
    if frame.json:
        frame.show(written)
        return
    console = error_console()
    console.print(plain(f"{done}." if written.number else "Nothing changes by that."))
    for warning in written.warnings:
        console.print(plain(f"But: {warning}"))


def the_edit(verb: Verb, path: Sequence[str], value: Any = None) -> Edit:
    """Return a change. Raises InvalidRequest for a name that cannot be one."""
    try:
        return Edit(verb=verb, path=list(path), value=value)
    except ValidationError:
        raise InvalidRequest(f"{'.'.join(path)[:80]!r} is no name of a setting.") from None


def changes(start: Sequence[str], words: Sequence[str], unset: Sequence[str], verb: Verb) -> list[Edit]:
    """Return the changes that ``key=value`` words and the keys of --unset mean below a place. Raises InvalidRequest."""
    found = read_settings(words)
    edits = []
    for key in dict.fromkeys(word.partition("=")[0] for word in words):
        value: Any = found
        for part in key.split("."):
            value = value[part]
        edits.append(the_edit(verb, [*start, *key.split(".")], value))
    edits += [the_edit(Verb.REMOVE, [*start, *key.split(".")]) for key in unset]
    if not edits:
        raise InvalidRequest("Say what to change: KEY=VALUE, or --unset KEY.")
    return edits


def read_entry(words: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Return an entry from a YAML file and ``key=value`` words, which go before it. Raises InvalidRequest, NotFound."""
    import yaml

    entry: Any = {}
    if file is not None:
        try:
            entry = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise NotFound(f"There is no {file}.") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InvalidRequest(f"{file} cannot be read: {error}") from None
        if not isinstance(entry, dict):
            raise InvalidRequest(f"{file}: expected keys with values.")
    return {**entry, **read_settings(words)}


async def entry_of(frame: Frame, section: str, name: str) -> tuple[dict[str, Any], str]:
    """Return an entry of the file, plain and as YAML. Raises NotFound."""
    import yaml

    from gridcloud.settings.document import read_document

    async with configuration_of(frame) as configuration:
        text = (await configuration.get()).text
    entries = read_document("", text).values.get(section) or {}
    if name not in entries:
        known = ", ".join(map(str, entries)) or "none"
        raise NotFound(f"The configuration has no {section.removesuffix('s')} {name!r} (it has: {known}).")
    return entries[name], yaml.safe_dump({name: entries[name]}, sort_keys=False, allow_unicode=True)
