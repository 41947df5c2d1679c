"""From the file and the environment to settings; everything wrong is told at once, with its place."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gridcloud import plugins
from gridcloud.errors import DriverUnavailable, GridcloudError, InvalidSettings
from gridcloud.settings.budgets import name_budgets
from gridcloud.settings.document import Document, Fault, read_document
from gridcloud.settings.model import PROVIDER_NAME, ProviderSettings, Settings

__all__ = ["SettingsFile", "parse_settings", "provider_settings", "sections"]

PREFIX = "GRIDCLOUD_"

KINDS = {"providers": "instances", "clusters": "clusters", "schedulers": "jobs"}
"""The sections of named entries, and the kind of driver that serves each."""


class SettingsFile:
    """The configuration file, read again whenever it changes.

    While it is bad, the last good settings hold and `fault` says what is wrong.
    """

    def __init__(
        self, path: Path, environment: Mapping[str, str] = os.environ, *, required: bool = False
    ) -> None:
        """``required``: the file has to be there. Otherwise defaults hold until it is."""
        self.path = path
        self.fault: InvalidSettings | None = None
        self.environment = environment
        self._required = required
        self._seen: object = ()
        self._settings: Settings | None = None

    def current(self) -> tuple[Settings, list[GridcloudError]]:
        """Return the settings and what is wrong: a bad file, providers that cannot be used.

        Raises InvalidSettings when the file was never good.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._settings = self._read()
                self.fault = None
            except InvalidSettings as error:
                self.fault = error
            self._seen = stamp
        if self._settings is None:
            assert self.fault is not None  # noqa: S101 - one of both was just set
            raise self.fault
        problems: list[GridcloudError] = [self.fault] if self.fault else []
        entries = [one for section in KINDS for one in getattr(self._settings, section).values()]
        problems += [entry for entry in entries if isinstance(entry, GridcloudError)]
        return self._settings, problems

    def _stamp(self) -> object:
        try:
            found = self.path.stat()
        except OSError as error:
            return error.errno
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Settings:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if self._required or self._settings is not None:
                raise InvalidSettings(
                    f"The configuration file {self.path} is not there.",
                    remedy="Make it, or name another by --config.",
                ) from None
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"The configuration file {self.path} cannot be read: {error}.") from error
        return parse_settings(text, str(self.path), self.environment)


def parse_settings(text: str, name: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in a YAML text; environment variables ``GRIDCLOUD_SECTION__KEY`` go before it.

    ``name`` is the file's name for messages. Raises InvalidSettings with every fault: in its message one per line, in
    ``details["faults"]`` each with ``place``, ``key`` and ``message``.
    """
    document = read_document(name, text)
    for section in [*sections(), *KINDS, "budgets", "groups", "profiles", "courses"]:
        if document.values.get(section, "") is None:
            del document.values[section]  # `hub:` with all its keys commented out
    name_budgets(document)
    _override(document, environment)
    named = {section: _providers(document, section) for section in KINDS}
    if not document.faults:
        try:
            settings = Settings.model_validate({**document.values, **named})
        except ValidationError as error:
            _explain(document, (), Settings, error)
        else:
            _check_courses(document, settings)
            if not document.faults:
                return settings
    else:  # tell the faults of the other sections in the same breath
        try:
            Settings.model_validate({**document.values, **{section: {} for section in KINDS}})
        except ValidationError as error:
            _explain(document, (), Settings, error)
    raise _refusal(document)


def provider_settings(
    name: str, entry: dict[str, Any], document: Document | None = None, section: str = "providers"
) -> ProviderSettings:
    """Return one provider's entry as its driver's settings; ``section``: providers, clusters or schedulers.

    Raises DriverUnavailable when the driver cannot be loaded, InvalidSettings when the entry does not fit it.
    """
    document = document or Document(f"the provider {name!r}")
    key = (section, name)
    before = len(document.faults)
    driver = entry.get("driver")
    if not isinstance(driver, str) or not driver:
        known = ", ".join(plugins.names(KINDS[section]))
        document.fault((*key, "driver"), f"say which driver serves it: one of {known}")
        raise _refusal(document, before)
    kind = plugins.load(KINDS[section], driver)
    try:
        settings: ProviderSettings = kind.Settings.model_validate(entry)
    except ValidationError as error:
        _explain(document, key, kind.Settings, error)
        raise _refusal(document, before) from error
    except GridcloudError as error:
        document.fault(key, str(error))
        raise _refusal(document, before) from error
    except Exception as error:  # the driver's own validation: its fault must not take the others with it
        raise DriverUnavailable(
            f"The driver {driver!r} fails on its settings: {type(error).__name__}: {error}.",
            remedy="Its author has to mend it; the other providers work.",
        ) from error
    return settings


def sections() -> dict[str, type[BaseModel]]:
    """Return the sections with fixed keys: name -> model."""
    found = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _providers(document: Document, section: str) -> dict[str, ProviderSettings | GridcloudError]:
    entries = document.values.get(section, {})
    if not isinstance(entries, dict):
        document.fault((section,), f"expected names with an entry each, found {entries!r:.60}")
        return {}
    found: dict[str, ProviderSettings | GridcloudError] = {}
    if not entries and section in ("providers", "schedulers"):
        entries = {"local": {"driver": "local"}}
    for name, entry in entries.items():
        key = (section, name)
        if not re.fullmatch(PROVIDER_NAME, name):
            document.fault(
                key, "a provider's name is 1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
            )
            continue
        if not isinstance(entry, dict):
            document.fault(key, "expected keys with values, such as 'driver: local'")
            continue
        try:
            found[name] = provider_settings(name, entry, document, section)
        except DriverUnavailable as error:
            found[name] = DriverUnavailable(
                f"{document.place(key)}: the provider {name!r} cannot be used: {error.message}",
                remedy=error.remedy,
                details={"provider": name},
            )
        except InvalidSettings:
            continue  # noted in the document
    return found


def _check_courses(document: Document, settings: Settings) -> None:
    for name, course in settings.courses.items():
        for profile in course.profiles:
            if profile not in settings.profiles:
                document.fault(
                    ("courses", name, "profiles"),
                    f"there is no profile {profile!r}{_nearest(profile, settings.profiles)}",
                )


def _override(document: Document, environment: Mapping[str, str]) -> None:
    """Put the values of environment variables in the place of the file's."""
    known = {
        f"{PREFIX}{section}__{key}".upper(): (section, key)
        for section, kind in sections().items()
        for key in kind.model_fields
    }
    known["GRIDCLOUD_CURRENCY"] = ("currency", "")
    for variable, value in environment.items():
        if variable not in known:
            if variable.startswith(PREFIX) and "__" in variable:
                document.faults.append(
                    Fault(variable, "", f"no setting has this name{_nearest(variable, known)}")
                )
            continue
        section, key = known[variable]
        if not key:
            document.values[section] = value
            document.places[(section,)] = variable
            continue
        values = document.values.setdefault(section, {})
        if isinstance(values, dict):
            several = "tuple" in str(sections()[section].model_fields[key].annotation)
            values[key] = [part.strip() for part in value.split(",") if part.strip()] if several else value
            document.places[section, key] = variable


def _explain(
    document: Document, above: tuple[str, ...], kind: type[BaseModel], error: ValidationError
) -> None:
    """Note pydantic's errors in our words, each at the place of its key."""
    for fault in error.errors(include_url=False):
        key = (*above, *fault["loc"])
        if fault["type"] == "extra_forbidden":
            fields = _fields(kind, fault["loc"][:-1])
            document.fault(
                key, f"unknown key{_nearest(str(key[-1]), fields) or '; known are: ' + ', '.join(fields)}"
            )
        elif fault["type"] == "missing":
            document.fault(key, f"this key is missing{_help(kind, fault['loc'])}")
        else:
            said = fault["msg"].removeprefix("Value error, ")
            said = said[:1].lower() + said[1:]
            secret = re.search(r"password|secret|token", ".".join(map(str, key)), re.IGNORECASE)
            found = "" if secret or isinstance(fault["input"], dict) else f"; found {fault['input']!r:.60}"
            if found and fault["type"] == "string_type" and isinstance(fault["input"], int | float):
                found += '; write it between quotes: "…"'
            document.fault(key, f"{said}{found}{_help(kind, fault['loc'])}")


def _help(kind: type[BaseModel], location: tuple[str | int, ...]) -> str:
    model: Any = kind
    entries = False
    for depth, part in enumerate(location):
        if entries:
            entries = False
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            break
        model, entries = _inner(field.annotation)
        if depth == len(location) - 1 or not hasattr(model, "model_fields"):
            return f" ({field.description})" if field.description else ""
    return ""


def _inner(annotation: Any) -> tuple[Any, bool]:
    """Return the model that a key's value is, or its entries by name or number are, and which of both."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1], True
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0], True
    return annotation, False


def _fields(kind: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    model: Any = kind
    entries = False
    for part in location:
        if entries:
            entries = False
            continue
        field = getattr(model, "model_fields", {}).get(part)
        model, entries = _inner(field.annotation) if field is not None else (None, False)
    return list(getattr(model, "model_fields", {}))


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _refusal(document: Document, first: int = 0) -> InvalidSettings:
    faults = sorted(document.faults[first:], key=_line)
    return InvalidSettings(
        "\n".join(str(fault) for fault in faults),
        details={"faults": [{"place": one.place, "key": one.key, "message": one.message} for one in faults]},
    )


def _line(fault: Fault) -> tuple[int, ...]:
    return tuple(int(part) for part in fault.place.split(":")[-2:] if part.isdigit())
