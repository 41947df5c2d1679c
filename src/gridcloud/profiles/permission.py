"""Who may use which profile today, and what a request within one comes to. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from gridcloud.errors import Forbidden, InvalidRequest
from gridcloud.instances.model import Request, format_size
from gridcloud.profiles.model import Choice, Person, Settled, Terms
from gridcloud.profiles.reading import read_request
from gridcloud.settings import Settings
from gridcloud.settings.profiles import AudienceSettings, ChoiceSettings, CourseSettings, ProfileLimits

__all__ = ["COMPARED", "choices_of", "settle", "tighter"]

SIZES = frozenset({"memory", "disk"})
COMPARED = ("cpus", "memory", "disk", "gpus")
"""Limits that a request is held to; ``time`` and ``idle`` are filled in, too."""

TIMES = ("time", "idle")
"""Of these, 0 is no limit."""

IsIn = Callable[[str, Person], bool]
"""Whether somebody is in the course of this name."""


def choices_of(settings: Settings, person: Person, today: date, is_in: IsIn) -> dict[str, Choice]:
    """Return by name the profiles that somebody may use today, in the order of the configuration.

    ``is_in`` tells who is in a course. A profile may be theirs for several reasons: each gives its terms.
    """
    found = {}
    for name, profile in settings.profiles.items():
        terms = [] if profile.offered else [Terms(ProfileLimits())] if profile.offered is None else []
        terms += [
            Terms(audience.limits, until=audience.until)
            for audience in profile.offered or ()
            if _is_now(audience, today) and _is_among(audience, person)
        ]
        terms += [
            Terms(course.limits, until=course.until, course=title, project=course.project)
            for title, course in settings.courses.items()
            if name in course.profiles
            and _is_now(course, today)
            and _takes_part(title, course, person, is_in)
        ]
        if terms:
            found[name] = Choice(name, profile, tuple(terms))
    return found


def settle(
    choice: Choice, wish: Mapping[str, Any], settings: Settings, now: datetime, running: int = 0
) -> Settled:
    """Return what a wish within a choice comes to: what the profile sets, then what may be chosen, within limits.

    ``wish`` holds fields of a request as a form or program gave them; ``running``: sessions of this profile that the
    user has. Raises InvalidRequest for a field that is none, that may not be chosen, or has a value that may not be;
    Forbidden for more than any of the terms allows.
    """
    profile = choice.profile
    fields: dict[str, Any] = {
        name: getattr(profile.request, name) for name in profile.request.model_fields_set
    }
    for name, rule in profile.choose.items():
        if name not in fields and (rule.values or rule.least):
            fields[name] = rule.values[0] if rule.values else rule.least
    for name, value in wish.items():
        _check_may_choose(choice, name, value)
        fields[name] = value
    request = read_request(fields)
    filled = {
        name: getattr(settings.defaults, name)
        for name in ("cpus", "memory")
        if name not in request.model_fields_set
    }
    request = request.model_copy(update=filled)
    for name, rule in profile.choose.items():
        if name in wish:
            _check_choice(choice, name, rule, request)
    return _first_within(choice, request, now, running)


def _first_within(choice: Choice, request: Request, now: datetime, running: int) -> Settled:
    """Return the request under the first terms that allow it. Raises Forbidden with the reason of the last."""
    complaints = []
    for terms in choice.terms:
        limits = tighter(choice.profile.limits, terms.limits)
        fitted = _fit(request, limits, terms, now)
        complaint = next(_complaints(fitted, limits, running), "")
        if not complaint:
            return Settled(choice, fitted, terms)
        complaints.append(f"{complaint}{f' in the course {terms.course}' if terms.course else ''}")
    raise Forbidden(f"{choice.title!r} is not for that: {'; '.join(dict.fromkeys(complaints))}.")


def _fit(request: Request, limits: ProfileLimits, terms: Terms, now: datetime) -> Request:
    """Return the request with its times filled in where it leaves them to us, and its project."""
    changes: dict[str, Any] = {}
    longest = limits.time
    if terms.until is not None:
        end = datetime.combine(terms.until + timedelta(days=1), time(), UTC)
        left = max(1, int((end - now).total_seconds()))
        longest = left if longest is None else min(longest, left)
        if request.time > left and (limits.time is None or request.time <= limits.time):
            changes["time"] = left
    if not request.time and longest:
        changes["time"] = longest
    if not request.idle and limits.idle:
        changes["idle"] = limits.idle
    if terms.project and not request.project:
        changes["project"] = terms.project
    return request.model_copy(update=changes)


def _complaints(request: Request, limits: ProfileLimits, running: int) -> Iterator[str]:
    for name in COMPARED:
        most, asked = getattr(limits, name), getattr(request, name)
        if most is not None and asked > most:
            shown = [format_size(one) if name in SIZES else f"{one:g}" for one in (asked, most)]
            yield f"{name} {shown[0]} is more than {shown[1]}"
    for name in TIMES:
        most, asked = getattr(limits, name), getattr(request, name)
        if most and (asked > most or not asked):
            yield f"{name} {timedelta(seconds=asked)} is more than {timedelta(seconds=most)}"
    if limits.sessions is not None and running >= limits.sessions:
        yield f"{running} of {limits.sessions} sessions are running"


def tighter(one: ProfileLimits, other: ProfileLimits) -> ProfileLimits:
    """Return limits that keep to both."""
    values = {}
    for name in ProfileLimits.model_fields:
        given = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        values[name] = min(given) if given else None
    return ProfileLimits(**values)


def _is_now(rule: AudienceSettings | CourseSettings, today: date) -> bool:
    return (rule.since is None or rule.since <= today) and (rule.until is None or today <= rule.until)


def _is_among(audience: AudienceSettings, person: Person) -> bool:
    if not audience.users and not audience.groups:
        return True
    return person.name in audience.users or not person.groups.isdisjoint(audience.groups)


def _takes_part(title: str, course: CourseSettings, person: Person, is_in: IsIn) -> bool:
    return person.name in course.teachers or is_in(title, person)


def _check_may_choose(choice: Choice, name: str, value: Any) -> None:
    """Raise InvalidRequest for a field that cannot be chosen; the value that the profile sets anyway is no choice."""
    given = read_request({name: value})
    if name in choice.profile.choose:
        return
    fixed = choice.profile.request
    if name in fixed.model_fields_set and getattr(given, name) == getattr(fixed, name):
        return
    may = ", ".join(choice.profile.choose) or "nothing"
    raise InvalidRequest(f"{name} is not for you to choose in {choice.title!r}; to choose there is {may}.")


def _check_choice(choice: Choice, name: str, rule: ChoiceSettings, request: Request) -> None:
    value = getattr(request, name)
    if rule.values and value not in [getattr(read_request({name: one}), name) for one in rule.values]:
        raise InvalidRequest(
            f"{name} {_shown(name, value)} is none of what {choice.title!r} has: {', '.join(rule.values)}."
        )
    if not rule.least and not rule.most:
        return  # of an image, say, there is no least
    asked = _number(name, value)
    if rule.least and asked < _number(name, getattr(read_request({name: rule.least}), name)):
        raise InvalidRequest(
            f"{name} {_shown(name, value)} is less than the {rule.least} of {choice.title!r}."
        )
    if rule.most and asked > _number(name, getattr(read_request({name: rule.most}), name)):
        raise InvalidRequest(
            f"{name} {_shown(name, value)} is more than the {rule.most} of {choice.title!r}."
        )


def _number(name: str, value: Any) -> Decimal:
    if value is None or (name in TIMES and not value):
        return Decimal("Infinity")  # no end, no highest price
    return Decimal(str(value))


def _shown(name: str, value: Any) -> str:
    return format_size(value) if name in SIZES else repr(str(value)[:60])
