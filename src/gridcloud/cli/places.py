"""What goes to an instance and what comes back: the words of ``--put``, ``--get``, ``--env``, ``--configure``."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridcloud.errors import InvalidRequest, NotFound

__all__ = ["Fetch", "Put", "read_configuring", "read_environment", "read_fetches", "read_hook", "read_puts"]


@dataclass(frozen=True, slots=True)
class Put:
    """A file or folder here, and its path on the instance."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """A file or folder on the instance, and its path here."""

    source: str
    target: Path


def read_puts(words: Sequence[str]) -> list[Put]:
    """Return what ``SRC[:DST]`` mean; DST is the name of SRC where it is not said. Raises NotFound."""
    found = []
    for word in words:
        source, target = (word, "") if Path(word).exists() else _split(word)
        path = Path(source).expanduser()
        if not path.exists():
            raise NotFound(f"--put: there is no {source!r} here.")
        name = path.resolve().name
        found.append(
            Put(path, posixpath.join(target, name) if not target or target.endswith("/") else target)
        )
    return found


def read_fetches(words: Sequence[str]) -> list[Fetch]:
    """Return what ``SRC[:DST]`` mean; DST is the name of SRC where it is not said. Raises InvalidRequest."""
    found = []
    for word in words:
        source, target = _split(word)
        name = posixpath.basename(source.rstrip("/"))
        if not target and name in ("", ".", ".."):
            raise InvalidRequest(f"--get {word}: say where it goes.", remedy="Write --get SRC:DST.")
        path = Path(target or name).expanduser()
        if path.is_dir() or target.endswith("/"):
            path = path / name
        if path.is_dir():
            raise InvalidRequest(f"--get {word}: there is a folder {path} already.", remedy="Name another.")
        found.append(Fetch(source, path))
    targets = [fetch.target.absolute() for fetch in found]
    if len(set(targets)) < len(targets):
        raise InvalidRequest("Two --get would write the same file.", remedy="Write --get SRC:DST.")
    return found


def read_environment(words: Sequence[str]) -> dict[str, str]:
    """Return what ``K=V`` and ``K`` (its value here, which so stays out of the command line) mean."""
    found = {}
    for word in words:
        name, has_value, value = word.partition("=")
        if not name:
            raise InvalidRequest(f"--env {word!r} names no variable.", remedy="Write --env NAME=VALUE.")
        if not has_value:
            if name not in os.environ:
                raise InvalidRequest(f"--env {name}: there is no such variable here.")
            value = os.environ[name]
        found[name] = value
    return found


def read_hook(text: str) -> tuple[str, ...]:
    """Return the words of a shell command; none for an empty one."""
    return ("sh", "-c", text) if text.strip() else ()


def read_configuring(files: Sequence[Path], requirements: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the entries of ``--configure`` and ``--requirements`` files. Raises InvalidRequest, NotFound."""
    entries: list[dict[str, Any]] = []
    for path in files:
        entries += _entries(path)
    lines = [
        line.strip()
        for path in requirements
        for line in _text(path).splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    if lines:
        entries.append({"use": "packages", "requirements": lines})
    return entries


def _entries(path: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        document = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{path} is no YAML: {error}") from None
    if isinstance(document, dict) and "configure" in document:
        document = document["configure"]
    entries = [document] if isinstance(document, dict) else document
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest(
            f"{path} holds no configurers.", remedy="Write a list of entries such as '- {use: script, …}'."
        )
    return entries


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None


def _split(word: str) -> tuple[str, str]:
    source, _, target = word.rpartition(":")
    return (source, target) if source else (word.rstrip(":"), "")
