"""Where the configuration is looked at and changed: by the service, and by commands where none runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, InvalidSettings, NotFound
from gridcloud.hooks.running import load
from gridcloud.profiles.inspection import Inspection, inspect
from gridcloud.service.configuration_documents import (
    ConfigurationState,
    CourseLine,
    CourseMembers,
    Edit,
    FaultLine,
    ProfileLine,
    ProviderLine,
    RevisionLine,
    Revisions,
    RevisionText,
    Verb,
    Verdict,
    Written,
)
from gridcloud.settings.document import read_document
from gridcloud.settings.edit import with_provider, without_provider
from gridcloud.settings.entries import read_value, with_value, without_value
from gridcloud.settings.history import History, Revision, digest_of
from gridcloud.settings.keeping import KeptFile, difference
from gridcloud.settings.profiles import AudienceSettings

__all__ = ["ConfigurationDesk", "faults_of"]

log = logging.getLogger(__name__)

LOOK = 10.0
"""Seconds between looks for changes by hand."""

Outcome = TypeVar("Outcome")


class ConfigurationDesk:
    """One configuration file with its history. What takes time is done in a thread."""

    def __init__(self, path: Path, data: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._file = KeptFile(path, History(data / "configuration"), self._inspect)
        self._refused = ""

    async def get(self) -> ConfigurationState:
        """Return the file as it is now."""
        return await asyncio.to_thread(self._state)

    async def check(self, text: str) -> Verdict:
        """Tell what is wrong with a text; nothing is written."""
        return await asyncio.to_thread(self._judge, text)

    async def write(self, text: str, *, since: str | None = None, what: str = "", by: str = "") -> Written:
        """Put a text in the place of the file's. Raises InvalidSettings, Conflict as `KeptFile.change`."""
        return await self._change(
            lambda: self._file.change(lambda _: text, by, what or "edited", since=since)
        )

    async def edit(
        self, edits: Sequence[Edit], *, since: str | None = None, what: str = "", by: str = ""
    ) -> Written:
        """Change values, all or none, and leave every other line alone. Raises NotFound, Conflict, InvalidSettings."""
        what = what or ", ".join(f"{one.verb} {'.'.join(one.path)}" for one in edits)
        return await self._change(
            lambda: self._file.change(lambda text: self._edited(text, edits), by, what, since=since)
        )

    async def roll_back(
        self, number: int, *, since: str | None = None, what: str = "", by: str = ""
    ) -> Written:
        """Write an earlier text again. Raises NotFound, InvalidSettings, Conflict."""
        return await self._change(lambda: self._file.roll_back(number, by, since=since))

    async def history(self) -> Revisions:
        """Return what is kept, the newest first."""
        return await asyncio.to_thread(self._revisions)

    async def revision(self, number: int) -> RevisionText:
        """Return one text of the history. Raises NotFound."""
        return await asyncio.to_thread(self._revision, number)

    async def members(self, course: str) -> CourseMembers:
        """Return who is in a course. Raises NotFound, InvalidSettings."""
        return await asyncio.to_thread(self._members, course)

    async def notice(self) -> int:
        """Keep what somebody wrote by hand; return its number, 0 for nothing new. Raises InvalidSettings."""
        found = await asyncio.to_thread(self._file.notice)
        return found.number if found is not None else 0

    async def watch(self, clock: Clock) -> None:
        """Keep what is changed by hand, again and again."""
        while True:
            try:
                number = await self.notice()
                if number > 1:
                    log.info("the configuration was changed by hand; it is kept as %s", number)
                self._refused = ""
            except GridcloudError as error:
                if str(error) != self._refused:  # told once
                    log.warning("the configuration is not valid, so what it said before counts: %s", error)
                self._refused = str(error)
            await clock.sleep(LOOK)

    async def _change(self, change: Callable[[], Revision | None]) -> Written:
        def work() -> Written:
            revision = change()
            text = revision.text if revision is not None else self._file.text()
            return Written(
                number=revision.number if revision else 0,
                digest=digest_of(text),
                warnings=self._judge(text).warnings,
            )

        return await asyncio.to_thread(work)

    def _inspect(self, text: str) -> Inspection:
        found = inspect(self._file.path, text, self._environment)
        profiles = found.settings.profiles.values()
        for hook in (
            *found.settings.hub.before_start,
            *(one for profile in profiles for one in profile.before_start),
        ):
            try:
                load(hook, self._file.path.parent)
            except GridcloudError as error:
                found.problems.append(error)
        return found

    def _judge(self, text: str) -> Verdict:
        try:
            found = self._inspect(text)
        except InvalidSettings as error:
            return Verdict(faults=faults_of(error))
        return Verdict(warnings=[str(one) for one in found.problems])

    def _state(self) -> ConfigurationState:
        text = self._file.text()
        digest = digest_of(text)
        kept = next((one for one in self._file.history.all() if one.digest == digest), None)
        state = ConfigurationState(path=str(self._file.path), text=text, digest=digest)
        if kept is not None:
            state.number, state.when, state.who = kept.number, _moment(kept), kept.who
        try:
            found = self._inspect(text)
        except InvalidSettings as error:
            state.faults = faults_of(error)
            return state
        state.warnings = [str(one) for one in found.problems]
        written = read_value(text, ("profiles",)) or {}
        state.profiles = _profiles(found, written)
        state.courses = _courses(found)
        state.providers = [
            ProviderLine(name=name, driver="", problem=str(entry))
            if isinstance(entry, GridcloudError)
            else ProviderLine(name=name, driver=entry.driver)
            for name, entry in found.settings.providers.items()
        ]
        return state

    def _revisions(self) -> Revisions:
        now = digest_of(self._file.text())
        return Revisions(
            revisions=[
                RevisionLine(
                    number=one.number,
                    when=_moment(one),
                    who=one.who,
                    what=one.what,
                    digest=one.digest,
                    now=one.digest == now,
                )
                for one in self._file.history.all()
            ]
        )

    def _revision(self, number: int) -> RevisionText:
        one, now = self._file.history.get(number), self._file.text()
        before = next((other for other in self._file.history.all() if other.number < number), None)
        return RevisionText(
            number=one.number,
            when=_moment(one),
            who=one.who,
            what=one.what,
            digest=one.digest,
            now=one.digest == digest_of(now),
            text=one.text,
            changes=difference(
                before.text if before else "", one.text, (str(before.number if before else 0), str(number))
            ),
            since=difference(one.text, now, (str(number), "now")),
        )

    def _members(self, name: str) -> CourseMembers:
        found = self._inspect(self._file.text())
        course = found.settings.courses.get(name)
        if course is None:
            known = ", ".join(found.settings.courses) or "none"
            raise NotFound(f"There is no course {name!r} (there is: {known}).")
        problem = found.rosters.faults.get(name)
        return CourseMembers(
            course=name,
            teachers=list(course.teachers),
            users=list(course.roster.users),
            groups=list(course.roster.groups),
            lti=list(course.roster.lti),
            listed=sorted(found.rosters.listed(name, course)),
            problem=str(problem) if problem else "",
        )

    def _edited(self, text: str, edits: Sequence[Edit]) -> str:
        if read_document(str(self._file.path), text).faults:
            self._inspect(text)  # raises, with every fault
        import yaml

        try:
            for edit in edits:
                text = _apply(text, edit)
        except (yaml.YAMLError, RecursionError) as error:  # an anchor used elsewhere, a value without end
            raise InvalidRequest(
                f"This cannot be changed by a command: {type(error).__name__}.",
                remedy="Change the file with an editor: gridcloud config edit",
            ) from error
        return text


def faults_of(error: GridcloudError) -> list[FaultLine]:
    """Return the faults of a configuration that was refused."""
    found = error.details.get("faults") or [{"place": "", "key": "", "message": str(error)}]
    return [FaultLine.model_validate(one) for one in found]


def _apply(text: str, edit: Edit) -> str:
    path = tuple(edit.path)
    words = ".".join(path)
    there = read_value(text, path) is not None
    if edit.verb is Verb.ADD:
        if len(path) == 2 and path[0] == "providers":
            return with_provider(text, path[1], edit.value)
        if there:
            raise Conflict(f"There is a {words} already.", remedy="Change it, or take another name.")
    elif edit.verb is Verb.REMOVE:
        if len(path) == 2 and path[0] == "providers":
            return without_provider(text, path[1])
        if not there:
            raise NotFound(f"The configuration has no {words}.")
        return without_value(text, path)
    elif edit.verb is Verb.CHANGE and read_value(text, path[:2]) is None:
        known = ", ".join(read_value(text, path[:1]) or ()) or "none"
        raise NotFound(f"The configuration has no {'.'.join(path[:2])} (it has: {known}).")
    return with_value(text, path, edit.value)


def _profiles(found: Inspection, written: Mapping[str, object]) -> list[ProfileLine]:
    return [
        ProfileLine(
            name=name,
            title=profile.title or name,
            spawner=profile.spawner.class_ if profile.spawner else "",
            offered=_offered(profile.offered),
            courses=[title for title, course in found.settings.courses.items() if name in course.profiles],
            imported=name not in written,
        )
        for name, profile in found.settings.profiles.items()
    ]


def _offered(offered: Sequence[AudienceSettings] | None) -> str:
    if offered is None:
        return "everybody"
    words = []
    for audience in offered:
        whom = [*audience.users, *(f"group {group}" for group in audience.groups)] or ["everybody"]
        days = [f"from {audience.since}"] if audience.since else []
        days += [f"until {audience.until}"] if audience.until else []
        words.append(" ".join([", ".join(whom), *days]))
    return "; ".join(words) or "courses only"


def _courses(found: Inspection) -> list[CourseLine]:
    lines = []
    for name, course in found.settings.courses.items():
        listed = {one.casefold() for one in course.roster.users} | found.rosters.listed(name, course)
        problem = found.rosters.faults.get(name)
        lines.append(
            CourseLine(
                name=name,
                title=course.title or name,
                teachers=list(course.teachers),
                profiles=list(course.profiles),
                since=course.since,
                until=course.until,
                listed=len(listed),
                problem=str(problem) if problem else "",
            )
        )
    return lines


def _moment(revision: Revision) -> datetime:
    return datetime.fromisoformat(revision.when)
