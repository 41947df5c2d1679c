"""The reference of all settings, generated from the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gridcloud import plugins
from gridcloud.errors import DriverUnavailable
from gridcloud.settings.apps import AppSettings
from gridcloud.settings.budgets import BudgetSettings
from gridcloud.settings.model import ProviderSettings, Settings
from gridcloud.settings.profiles import (
    AudienceSettings,
    ChoiceSettings,
    CourseSettings,
    ProfileLimits,
    ProfileSettings,
    RosterSettings,
    SpawnerSettings,
)
from gridcloud.settings.reading import PREFIX, sections
from gridcloud.settings.values import format_size, parse_duration, parse_size

__all__ = ["reference"]


NAMED = ("providers", "clusters", "budgets", "groups", "profiles", "courses", "apps")
"""Sections of named entries."""

PARTS: dict[str, type[BaseModel]] = {
    "profiles.NAME.choose.FIELD": ChoiceSettings,
    "profiles.NAME.offered": AudienceSettings,
    "profiles.NAME.limits": ProfileLimits,
    "profiles.NAME.spawner": SpawnerSettings,
}


def reference() -> str:
    """Return all settings as Markdown tables: the sections, then each installed driver's own keys."""
    parts = [
        "## Top level\n",
        _table((), Settings, skip={*sections(), *NAMED}),
    ]
    for name, kind in sections().items():
        inner = dict(_inner_sections(kind))
        parts += [f"## `{name}`\n", f"{_first_line(kind)}\n", _table((name,), kind, skip=inner)]
        for key, part in inner.items():
            parts += [f"### `{name}.{key}`\n", f"{_first_line(part)}\n", _table(None, part)]
    parts += [
        "## `budgets.NAME`\n",
        f"{_first_line(BudgetSettings)} A list does as well, each entry with `name`.\n",
        _table(None, BudgetSettings),
        "## `groups.NAME`\n",
        f"{(Settings.model_fields['groups'].description or '').capitalize()}: one name or a list.\n",
    ]
    parts += ["## `profiles.NAME`\n", f"{_first_line(ProfileSettings)}\n", _table(None, ProfileSettings)]
    for name, kind in PARTS.items():
        parts += [f"### `{name}`\n", f"{_first_line(kind)}\n", _table(None, kind)]
    parts += ["## `courses.NAME`\n", f"{_first_line(CourseSettings)}\n", _table(None, CourseSettings)]
    parts += ["### `courses.NAME.roster`\n", f"{_first_line(RosterSettings)}\n", _table(None, RosterSettings)]
    parts += ["## `apps.NAME`\n", f"{_first_line(AppSettings)}\n", _table(None, AppSettings)]
    parts += ["## `providers.NAME`\n", "What every provider's entry has.\n", _table(None, ProviderSettings)]
    parts += _drivers("instances")
    parts += [
        "## `clusters.NAME`\n",
        "What makes Kubernetes clusters; every entry has what a provider's has.\n",
    ]
    parts += _drivers("clusters")
    return "\n".join(parts)


def _inner_sections(kind: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections within a section that may be left out."""
    for name, field in kind.model_fields.items():
        for one in get_args(field.annotation):
            if (
                isinstance(one, type)
                and issubclass(one, BaseModel)
                and type(None) in get_args(field.annotation)
            ):
                yield name, one


def _drivers(kind: str) -> list[str]:
    """Return the keys of each installed driver of a kind."""
    parts = []
    for driver in plugins.names(kind):
        try:
            settings = plugins.load(kind, driver).Settings
        except DriverUnavailable as error:
            parts += [f"### `driver: {driver}`\n", f"{error}\n"]
            continue
        parts += [
            f"### `driver: {driver}`\n",
            f"{_first_line(settings)}\n",
            _table(None, settings, skip=set(ProviderSettings.model_fields)),
        ]
    return parts


def _table(above: tuple[str, ...] | None, kind: type[BaseModel], skip: Iterable[str] = ()) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name in set(skip):
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        written = "required" if default is PydanticUndefined else f"`{_spell(default, field)}`"
        key = f"`{field.alias or name}`"
        if above is not None:
            key += f"<br>`{PREFIX}{'__'.join([*above, name]).upper()}`"
        lines.append(f"| {key} | {written} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else "No keys of its own.\n"


def _spell(value: Any, field: FieldInfo) -> str:
    readers = [getattr(one, "func", None) for one in field.metadata]
    if parse_size in readers and value:
        return format_size(value)
    if parse_duration in readers and value:
        return f"{value}s"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _cell(str(value)) if value not in ("", None) else "''" if value == "" else "null"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _first_line(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]
