"""A text of the configuration, looked at as a whole before it counts: with rosters and the MultipleSpawner's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gridcloud.errors import GridcloudError
from gridcloud.profiles.book import Book
from gridcloud.profiles.rosters import Rosters
from gridcloud.settings import Settings, SettingsFile, parse_settings

__all__ = ["Inspection", "inspect"]


class Inspection:
    """What a text says, and what is not as it should be though the text itself is valid."""

    def __init__(self, settings: Settings, problems: list[GridcloudError], rosters: Rosters) -> None:
        self.settings = settings
        """With the profiles of the MultipleSpawner's files."""
        self.problems = problems
        """Drivers that cannot be loaded, lists that cannot be read; what depends on them fails, nothing else."""
        self.rosters = rosters


def inspect(path: Path, text: str, environment: Mapping[str, str] = os.environ) -> Inspection:
    """Return what a text would mean in the file at ``path``. Reads the files that it names.

    Raises InvalidSettings with every fault.
    """
    book = Book(_Candidate(path, text, environment), environment)
    settings, _ = book.current()
    book.rosters.read_all(settings.courses)
    return Inspection(settings, book.current()[1], book.rosters)


class _Candidate(SettingsFile):
    """A text in the file's place."""

    def __init__(self, path: Path, text: str, environment: Mapping[str, str]) -> None:
        super().__init__(path, environment)
        self._text = text

    def _stamp(self) -> object:
        return None

    def _read(self) -> Settings:
        return parse_settings(self._text, str(self.path), self.environment)
