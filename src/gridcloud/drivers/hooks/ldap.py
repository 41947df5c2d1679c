"""The hook ``ldap``: a user's entry in a directory is found or made, and the session is told of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from gridcloud.drivers.hooks.ldap_directory import (
    Directory,
    Entry,
    Watch,
    escape_filter,
    escape_name,
    open_directory,
)
from gridcloud.drivers.hooks.ldap_settings import LDAPSettings, LookupSettings, NumberSettings
from gridcloud.errors import Conflict, Forbidden, InvalidSettings, NotFound, Unavailable
from gridcloud.hooks.driver import Hook
from gridcloud.hooks.model import Context, Outcome
from gridcloud.hooks.templates import fill_safely, placeholders

__all__ = ["LDAPHook"]

OWN_NAME = "{JUPYTERHUB_USER}"

TRIES = 100
"""How often a counter is tried that others are counting with, too, and how many numbers in use are skipped."""

PAUSE = 0.05
"""Longest pause between two tries, in seconds."""


class LDAPHook(Hook):
    """Finds or makes entries. What it makes stays: it is the user's account, and is found at the next start."""

    Settings = LDAPSettings
    settings: LDAPSettings

    async def run(self, context: Context) -> Outcome:
        watch = Watch(self.settings.limit)
        try:
            return await asyncio.to_thread(self._work, context.words(), watch)
        finally:
            watch.leave()

    def _work(self, words: Mapping[str, str], watch: Watch) -> Outcome:
        with open_directory(self.settings, self.folder, watch) as directory:
            entry = self._find(directory, words) or self._make(directory, words)
        self._check_name(entry, words)
        return Outcome(
            {
                name: fill_safely(template, {**self._values(entry, template), **words})
                for name, template in self.settings.environment.items()
            }
        )

    def _find(self, directory: Directory, words: Mapping[str, str]) -> Entry | None:
        settings = self.settings
        wanted = {
            name for text in settings.environment.values() for name in placeholders(text)
        } - words.keys()
        wanted |= set(self._naming())
        question = fill_safely(settings.filter, words, escape_filter)
        found = directory.search(settings.search, question, sorted(wanted))
        if len(found) > 1:
            raise Forbidden(
                f"The directory has several entries for you: {', '.join(one.name for one in found)}, …"
            )
        return found[0] if found else None

    def _make(self, directory: Directory, person: Mapping[str, str]) -> Entry:
        settings = self.settings
        if not settings.entry:
            raise Forbidden(f"The directory has no entry for {person['JUPYTERHUB_USER']!r:.80}.")
        lookups = {name: self._look_up(directory, one, person) for name, one in settings.lookups.items()}
        words = {**lookups, **person}
        # No number is spent on what cannot be.
        self._filled({**words, **dict.fromkeys(settings.numbers, "0")})
        words |= {name: self._take(directory, name, one) for name, one in settings.numbers.items()}
        name, attributes = self._filled(words)
        made = directory.add(name, settings.classes, attributes)
        found = self._find(directory, person)
        if found is None:
            was = "was made" if made else "was there before"
            raise InvalidSettings(
                f"The entry {name} {was}, but the filter {settings.filter} does not find it.",
                remedy="Have the filter and the attributes fit together.",
            )
        return found

    def _filled(self, words: Mapping[str, str]) -> tuple[str, dict[str, list[str]]]:
        """Return a new entry's name and attributes."""
        attributes = {
            attribute: [fill_safely(template, words) for template in templates]
            for attribute, templates in self.settings.attributes.items()
        }
        for attribute, values in attributes.items():
            if not all(values):
                raise Forbidden(f"Nothing is known of you that could stand in the attribute {attribute}.")
        return fill_safely(self.settings.entry, words, escape_name), attributes

    def _look_up(self, directory: Directory, one: LookupSettings, words: Mapping[str, str]) -> str:
        question = fill_safely(one.filter, words, escape_filter)
        values = [
            entry.get(one.attribute) for entry in directory.search(one.search, question, [one.attribute])
        ]
        if len(values) != 1 or len(values[0]) != 1:
            raise NotFound(f"The directory has not one {one.attribute} for {question} below {one.search}.")
        return values[0][0]

    def _take(self, directory: Directory, name: str, counter: NumberSettings) -> str:
        """Return the next number that nobody has. Each is given once, to whichever hub was first."""
        for _ in range(TRIES):
            entry = directory.read(counter.entry, [counter.attribute])
            held = entry.get(counter.attribute) if entry else ()
            if len(held) != 1 or not held[0].isdecimal():
                raise InvalidSettings(
                    f"{counter.entry} has no number in its {counter.attribute} to count from."
                )
            number = int(held[0]) + 1
            if number > counter.most:
                raise Unavailable(f"The counter {counter.entry} has no number left up to {counter.most}.")
            if not directory.swap(counter.entry, counter.attribute, held[0], str(number)):
                directory.watch.wait(random.uniform(0, PAUSE))  # noqa: S311 - another was first
            elif not directory.search(self.settings.search, f"({name}={number})", ()):
                return str(number)
        raise Conflict(f"The counter {counter.entry} gave no free number in {TRIES} tries.")

    def _naming(self) -> list[str]:
        """Return the attributes that hold a user's name and nothing else."""
        return [name for name, values in self.settings.attributes.items() if values == (OWN_NAME,)]

    def _check_name(self, entry: Entry, words: Mapping[str, str]) -> None:
        """Raise Forbidden for the entry of somebody whose name differs in case: directories do not tell them apart."""
        user = words["JUPYTERHUB_USER"]
        for attribute in self._naming() if self.settings.exact else ():
            values = entry.get(attribute)
            if user not in values and any(value.casefold() == user.casefold() for value in values):
                raise Forbidden(f"The entry {entry.name} is of {values[0]!r}, who is not {user!r}.")

    def _values(self, entry: Entry, template: str) -> dict[str, str]:
        found = {}
        for attribute in placeholders(template):
            values = entry.get(attribute)
            if len(values) > 1:
                raise InvalidSettings(f"The entry {entry.name} has several values of {attribute}.")
            if values:
                found[attribute] = values[0]
        return found
