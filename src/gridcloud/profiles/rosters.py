"""Who is in a course. Lists in files are read anew when they change."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from gridcloud.errors import InvalidSettings
from gridcloud.profiles.model import Person
from gridcloud.settings.profiles import CourseSettings

__all__ = ["Rosters", "read_roster"]

COLUMNS = ("username", "user", "login", "email", "e-mail", "mail")
"""Names of columns that say who somebody is; in a file with a header, all of them count."""

LARGEST = 4 << 20
"""Bytes of a list at most."""

Stamp = tuple[int, int, int]


class Rosters:
    """The rosters of all courses. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where relative paths begin: that of the configuration file."""
        self._folder = folder
        self._lists: dict[str, tuple[Stamp, frozenset[str]]] = {}
        self.faults: dict[str, InvalidSettings] = {}
        """Courses whose list cannot be read now. What was read of it last still counts."""

    def is_in(self, courses: Mapping[str, CourseSettings], course: str, person: Person) -> bool:
        """Tell whether somebody is in a course; nobody is in one that there is not."""
        settings = courses.get(course)
        if settings is None:
            return False
        roster = settings.roster
        if person.name in roster.users or not person.groups.isdisjoint(roster.groups):
            return True
        if not person.contexts.isdisjoint(roster.lti):
            return True
        if not roster.file:
            return False
        listed = self._listed(course, roster.file)
        return any(name.casefold() in listed for name in (person.name, *person.addresses))

    def listed(self, course: str, settings: CourseSettings) -> frozenset[str]:
        """Return the names and addresses in a course's list, in lower case."""
        return self._listed(course, settings.roster.file) if settings.roster.file else frozenset()

    def read_all(self, courses: Mapping[str, CourseSettings]) -> None:
        """Read every list now, so that `faults` has all that is wrong with them."""
        for name, course in courses.items():
            if course.roster.file:
                self._listed(name, course.roster.file)

    def _listed(self, course: str, name: str) -> frozenset[str]:
        path = (self._folder / Path(name).expanduser()).absolute()
        stamp, known = self._lists.get(str(path), ((0, 0, 0), frozenset[str]()))
        try:
            found = path.stat()
            now = (found.st_mtime_ns, found.st_size, found.st_ino)
            if now != stamp:
                if found.st_size > LARGEST:
                    raise InvalidSettings(f"The roster {path} has more than {LARGEST >> 20} MiB.")
                known = read_roster(path.read_text(encoding="utf-8-sig"))
                self._lists[str(path)] = (now, known)
            self.faults.pop(course, None)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            self.faults[course] = InvalidSettings(
                f"The roster of the course {course!r} cannot be read: {error}.",
                remedy="What it said last counts until then.",
            )
        except InvalidSettings as error:
            self.faults[course] = error
        return known


def read_roster(text: str) -> frozenset[str]:
    """Return the user names and addresses in a list, in lower case.

    A CSV file whose header has a column ``username`` or ``email`` gives those columns. Anything else gives one name a
    line, of which only the first word counts; ``#`` begins a remark. Raises csv.Error.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return frozenset()
    dialect = ";" if lines[0].count(";") > lines[0].count(",") else ","
    header = [name.strip().strip('"').casefold() for name in lines[0].split(dialect)]
    wanted = [number for number, name in enumerate(header) if name in COLUMNS]
    if wanted:
        rows = csv.reader(io.StringIO("\n".join(lines[1:])), delimiter=dialect, strict=True)
        names = (row[number] for row in rows for number in wanted if number < len(row))
    else:
        names = (line.split("#")[0].replace(dialect, " ").split()[0] for line in lines)
    return frozenset(name.strip().casefold() for name in names if name.strip())
