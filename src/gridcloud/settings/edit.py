"""Add and remove a provider in the file, leaving every other line and comment as it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridcloud.errors import Conflict, GridcloudError, InvalidSettings, NotFound
from gridcloud.settings.document import read_document
from gridcloud.settings.reading import parse_settings, provider_settings

__all__ = ["add_provider", "remove_provider"]


def add_provider(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Write a provider's entry into the file, which is made when it is not there.

    Where there is none yet, this computer (``local``) counts as the only one: its entry is written too, so that adding
    a provider takes none away.

    Raises Conflict when there is one of this name, InvalidSettings or DriverUnavailable when the entry or the file
    would not be valid; the file is left alone then.
    """
    provider_settings(name, entry)
    with _one_at_a_time(path):
        text, providers = _read(path)
        if name in providers:
            raise Conflict(
                f"{path} has a provider {name!r} already.", remedy="Remove it first, or take another name."
            )
        if not providers and name != "local":
            providers = {"local": {"driver": "local"}}
            text = _with(text, "local", providers["local"])
        wanted = {**providers, name: entry}
        _write(path, _with(text, name, entry), wanted)


def remove_provider(path: Path, name: str) -> None:
    """Take a provider's entry out of the file. Raises NotFound, or InvalidSettings when the file is not valid."""
    with _one_at_a_time(path):
        text, providers = _read(path)
        if name not in providers:
            known = ", ".join(providers) or "none"
            raise NotFound(f"{path} has no provider {name!r} (it has: {known}).")
        _write(path, _without(text, name), {key: value for key, value in providers.items() if key != name})


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file between our reading and our writing it, by a lock on its folder."""
    folder = path.resolve().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GridcloudError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    parse_settings(text, str(path), {})
    return text, read_document(str(path), text).values.get("providers") or {}


def _write(path: Path, text: str, wanted: dict[str, Any]) -> None:
    if (read_document(str(path), text).values.get("providers") or {}) != wanted:
        raise InvalidSettings(
            f"The providers of {path} are not written as one key per line, so they cannot be changed by a command.",
            remedy="Change the file with an editor.",
        )
    parse_settings(text, str(path), {})
    target = path.resolve()  # a link stays a link
    try:
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise GridcloudError(f"{path} cannot be written: {error.strerror}.") from error


def _with(text: str, name: str, entry: dict[str, Any]) -> str:
    import yaml

    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    key, value = _providers(text)
    indent = 2
    if key is None:
        lines.append("\nproviders:\n" if lines else "providers:\n")
        at = len(lines)
    elif isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
        indent = value.value[0][0].start_mark.column
        at = _last_line(value) + 1
    else:  # `providers:` with nothing below
        at = key.start_mark.line + 1
        lines[at - 1] = "providers:\n"
    block = yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True, default_flow_style=False)
    lines[at:at] = [" " * indent + line for line in block.splitlines(keepends=True)]
    return "".join(lines)


def _without(text: str, name: str) -> str:
    lines = text.splitlines(keepends=True)
    _, value = _providers(text)
    for key, entry in value.value:
        if key.value == name:
            del lines[key.start_mark.line : _last_line(entry) + 1]
    return "".join(lines)


def _providers(text: str) -> tuple[Any, Any]:
    """The nodes of the key ``providers`` and of its value."""
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "providers":
            return key, value
    return None, None


def _last_line(node: Any) -> int:
    """The line that the node's last word stands on; a node's own end lies beyond the comments that follow it."""
    import yaml

    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        end = node.end_mark
        return int(end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line)
    last = node.value[-1]
    return max(_last_line(part) for part in (last if isinstance(last, tuple) else (last,)))
