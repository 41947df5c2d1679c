"""What the spawn page shows of the profiles that a user may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gridcloud.errors import GridcloudError
from gridcloud.instances.model import format_size
from gridcloud.profiles import Choice, Terms
from gridcloud.settings.profiles import ChoiceSettings
from gridcloud.spawner.wrapped import Wrapped

__all__ = ["chosen_profile", "format_time", "shown_profiles"]

LABELS = {
    "cpus": "CPUs", "memory": "Memory", "disk": "Disk", "gpus": "GPUs", "gpu_model": "GPU model", "time": "Time",
    "idle": "Time without use", "image": "Image", "on": "Where", "kind": "Kind", "sessions": "sessions",
}  # fmt: skip
"""What people call the fields of a request."""

COUNTED = ("cpus", "gpus", "sessions")
SIZES = ("memory", "disk", "gpu_memory")
TIMES = ("time", "idle")


async def shown_profiles(
    spawner: Any, choices: Mapping[str, Choice], values: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what the page shows of each: its fields, or the form of the spawner that it names.

    ``values``: what was asked for before, by field.
    """
    return [await _shown(spawner, choice, values) for choice in choices.values()]


def chosen_profile(choices: Mapping[str, Choice], wanted: Iterable[Any]) -> str:
    """Return the profile that the page opens with: the first wanted that there is, else the first."""
    return next((name for name in wanted if name in choices), next(iter(choices), ""))


def format_time(seconds: int) -> str:
    """Return ``2h30m`` for 9000; nothing for 0."""
    text = ""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if seconds >= size:
            text += f"{seconds // size}{letter}"
            seconds %= size
    return text


async def _shown(spawner: Any, choice: Choice, values: Mapping[str, str]) -> dict[str, Any]:
    profile = choice.profile
    shown: dict[str, Any] = {
        "name": choice.name,
        "title": choice.title,
        "description": profile.description,
        "sets": _sets(choice),
        "limits": [_limits(terms) for terms in choice.terms],
        "fields": [],
        "adds": profile.requirements,
        "requirements": values.get("requirements", ""),
        "form": "",
        "problem": "",
    }
    if profile.spawner is None:
        shown["fields"] = [_field(choice, name, rule, values) for name, rule in profile.choose.items()]
        return shown
    try:
        shown["form"] = await Wrapped(spawner, profile.spawner, profile.environment).form()
    except Exception as error:
        spawner.log.warning("the profile %r cannot be used: %s", choice.name, error)
        shown["problem"] = str(error) if isinstance(error, GridcloudError) else type(error).__name__
    return shown


def _field(choice: Choice, name: str, rule: ChoiceSettings, values: Mapping[str, str]) -> dict[str, Any]:
    request = choice.profile.request
    preset = _words(name, getattr(request, name)) if name in request.model_fields_set else rule.least
    return {
        "name": name,
        "label": LABELS.get(name, name.replace("_", " ").capitalize()),
        "values": rule.values,
        "least": rule.least,
        "most": rule.most,
        "value": values.get(name) or preset,
    }


def _sets(choice: Choice) -> str:
    request = choice.profile.request
    set_alone = sorted(request.model_fields_set - choice.profile.choose.keys())
    return ", ".join(f"{LABELS.get(name, name)} {_words(name, getattr(request, name))}" for name in set_alone)


def _limits(terms: Terms) -> str:
    words = [f"in {terms.course}"] if terms.course else []
    given = terms.limits.model_dump(exclude_none=True)
    words += [f"at most {_words(name, value)} {_counted(name, value)}" for name, value in given.items()]
    return ", ".join([*words, *([f"until {terms.until}"] if terms.until else [])])


def _counted(name: str, value: Any) -> str:
    label = LABELS.get(name, name)
    return label.removesuffix("s") if name in COUNTED and value == 1 else label


def _words(name: str, value: Any) -> str:
    if name in SIZES:
        return format_size(value)
    if name in TIMES:
        return format_time(value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)
