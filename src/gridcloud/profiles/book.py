"""All that a hub offers now: the configuration's profiles, and those of the MultipleSpawner's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from gridcloud.errors import GridcloudError, InvalidSettings
from gridcloud.profiles.model import Choice, Person
from gridcloud.profiles.permission import choices_of
from gridcloud.profiles.prototypes import Note, Prototypes, read_prototypes
from gridcloud.profiles.rosters import Rosters
from gridcloud.settings import Settings, SettingsFile

__all__ = ["Book"]

TEMPLATES, DEPLOYMENTS = "MULTIPLE_SPAWNER_TEMPLATE_FILE", "MULTIPLE_SPAWNER_DEPLOYMENT_FILE"

LARGEST = 4 << 20
"""Bytes of a file at most."""


class Book:
    """The settings with all profiles in them. While a file is bad, what it said last holds. Not for several threads."""

    def __init__(self, settings_file: SettingsFile, environment: Mapping[str, str] = os.environ) -> None:
        self._file = settings_file
        self._environment = environment
        self._seen: object = None
        self._prototypes = Prototypes()
        self._fault: GridcloudError | None = None
        self._whole: tuple[Settings, Settings] | None = None
        self.rosters = Rosters(settings_file.path.parent)

    @property
    def notes(self) -> list[Note]:
        """What became of the keys of the MultipleSpawner's files that are in no profile."""
        return self._prototypes.notes

    def current(self) -> tuple[Settings, list[GridcloudError]]:
        """Return the settings with all profiles, and what is wrong. Raises InvalidSettings as SettingsFile does."""
        settings, problems = self._file.current()
        self._read(settings)
        if self._whole is None or self._whole[0] is not settings:
            profiles = {**self._prototypes.profiles, **settings.profiles}
            self._whole = settings, settings.model_copy(update={"profiles": profiles})
        faults = [*problems, *([self._fault] if self._fault else []), *self.rosters.faults.values()]
        return self._whole[1], faults

    def choices(self, person: Person, now: datetime | None = None) -> dict[str, Choice]:
        """Return by name what somebody may use now; days begin at midnight UTC."""
        settings, _ = self.current()
        return choices_of(
            settings,
            person,
            (now or datetime.now(UTC)).date(),
            lambda course, who: self.rosters.is_in(settings.courses, course, who),
        )

    def _read(self, settings: Settings) -> None:
        names = (
            self._environment.get(TEMPLATES) or settings.hub.templates,
            self._environment.get(DEPLOYMENTS) or settings.hub.deployments,
        )
        drivers = {
            name: entry.driver
            for name, entry in settings.providers.items()
            if not isinstance(entry, GridcloudError)
        }
        paths = [(self._file.path.parent / Path(name).expanduser()).absolute() for name in names if name]
        seen = (names, tuple(_stamp(path) for path in paths), drivers)
        if seen == self._seen:
            return
        self._seen, self._whole = seen, None
        try:
            if not paths:
                self._prototypes = Prototypes()
            elif len(paths) == 1:
                raise InvalidSettings(
                    "Of the MultipleSpawner's two files only one is named.",
                    remedy=f"Name hub.templates and hub.deployments, or set {TEMPLATES} and {DEPLOYMENTS}.",
                )
            else:
                first, second = ((str(path), _text(path)) for path in paths)
                self._prototypes = read_prototypes(first, second, drivers)
            self._fault = None
        except GridcloudError as error:
            self._fault = error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidSettings(f"{path} has more than {LARGEST >> 20} MiB.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read: {error}.") from error


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino
