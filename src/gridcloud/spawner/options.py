"""What a user asks for, from the form or the REST API: checked in one place, whoever brought it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gridcloud.errors import Forbidden, InvalidRequest
from gridcloud.instances.model import Request
from gridcloud.profiles import Choice, Person, settle
from gridcloud.profiles.placeholders import fill
from gridcloud.profiles.reading import read_request
from gridcloud.profiles.requirements import read_requirements
from gridcloud.settings import Settings
from gridcloud.settings.profiles import SpawnerSettings
from gridcloud.spawner.login import Login

__all__ = ["CHOSEN", "REQUIREMENTS", "Asked", "from_form", "person_of", "read_options"]

FORM_ONLY = frozenset({"_xsrf"})
"""Fields of the form that are no options."""

CHOSEN = "gridcloud_profile"
"""The form's field of the profile: a name that no other spawner's form has, as KubeSpawner's has ``profile``."""

REQUIREMENTS = "requirements"
"""The option with the packages to add."""

NOTHING_KNOWN = Login()

Fields = Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be started: a session of ours, or one of another spawner."""

    request: Request
    profile: str = ""
    course: str = ""
    """The course whose terms allow it."""
    configure: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    spawner: SpawnerSettings | None = None
    fields: Fields = field(default_factory=dict)
    """What was sent of the other spawner's own form."""
    added: list[dict[str, Any]] = field(default_factory=list)
    """What is configured after all else: the packages that the user adds."""


def from_form(sent: Fields, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Return the options of a sent form; what was left empty is left out. Raises InvalidRequest."""
    given = {name: values for name, values in sent.items() if name not in FORM_ONLY}
    field_ = CHOSEN if given.get(CHOSEN) else "profile"  # a link may have the shorter name
    name = _single("profile", given.pop(field_)) if given.get(field_) else ""
    if name and name in choices and choices[name].profile.spawner is not None:
        return {"profile": name, "fields": given}
    options = {"profile": name} if name else {}
    for key, values in given.items():
        if value := _single(key, values):
            options[key] = value
    return options


def read_options(
    options: Mapping[str, Any],
    settings: Settings,
    choices: Mapping[str, Choice],
    *,
    running: Mapping[str, int] | None = None,
    known: Mapping[str, str] | None = None,
) -> Asked:
    """Return what a user's options come to. Where the configuration has profiles, one of them has to be named.

    ``choices``: the profiles that this user may use now; ``running``: sessions that the user has, by profile;
    ``known``: what placeholders stand for. Raises InvalidRequest for what is unknown or impossible, Forbidden for what
    is not for this user.
    """
    if not settings.profiles:
        return Asked(_with_known_provider(read_request(options), settings))
    choice = _choice(options, settings, choices)
    profile, rest = choice.profile, {key: value for key, value in options.items() if key != "profile"}
    added = [] if profile.spawner is not None else _added(rest.pop(REQUIREMENTS, ()), choice)
    wish = {} if profile.spawner is not None else rest
    settled = settle(choice, wish, settings, datetime.now(UTC), (running or {}).get(choice.name, 0))
    if profile.spawner is not None:
        return Asked(
            settled.request,
            choice.name,
            environment=profile.environment,
            spawner=profile.spawner,
            fields=_fields(rest),
        )
    return Asked(
        _with_known_provider(settled.request, settings),
        choice.name,
        settled.terms.course,
        configure=fill([dict(entry) for entry in profile.configure], known or {}),
        environment=fill(profile.environment, known or {}),
        added=added,
    )


def _added(given: Any, choice: Choice) -> list[dict[str, Any]]:
    """Return the entry that puts the packages a user adds on top of the session's own."""
    requirements = read_requirements(given, choice.profile, choice.title)
    return [{"use": "packages", "requirements": list(requirements), "overlay": True}] if requirements else []


def _choice(options: Mapping[str, Any], settings: Settings, choices: Mapping[str, Choice]) -> Choice:
    name = options.get("profile", "")
    there = f"there {'is' if len(choices) == 1 else 'are'} {', '.join(choices) or 'none'} for you"
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"Say which profile; {there}.")
    if name in choices:
        return choices[name]
    if name in settings.profiles:
        raise Forbidden(f"The profile {name!r} is not offered to you now; {there}.")
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    raise InvalidRequest(
        f"There is no profile {name[:60]!r}; {f'did you mean {near[0]}?' if near else f'{there}.'}"
    )


def _fields(rest: Mapping[str, Any]) -> Fields:
    """Return the fields of another spawner's form as options have them. Raises InvalidRequest."""
    fields = rest.get("fields", {})
    strange = [name for name in rest if name != "fields"]
    if strange or not isinstance(fields, Mapping):
        raise InvalidRequest(
            f"This profile takes no options {', '.join(strange) or 'of that form'}.",
            remedy="What its form asks for goes into 'fields'.",
        )
    return {str(name): values if isinstance(values, list) else [values] for name, values in fields.items()}


def _with_known_provider(request: Request, settings: Settings) -> Request:
    if request.on and request.on not in settings.providers:
        known = ", ".join(settings.providers) or "none"
        raise InvalidRequest(f"There is no provider {request.on!r}; there are: {known}.")
    return request


def _single(name: str, values: list[Any]) -> str:
    if len(values) != 1 or not isinstance(values[0], str):
        raise InvalidRequest(f"{name[:60]!r} was given {len(values)} times.")
    return values[0].strip()


def person_of(user: Any, login: Login = NOTHING_KNOWN) -> Person:
    """Return who a user of JupyterHub is; ``login``: what they told when they logged in."""
    groups = frozenset(group.name for group in user.groups)
    return Person(user.name, groups, login.contexts, login.addresses)
