"""The options of a sent form, checked as those of the REST API are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.errors import InvalidRequest

__all__ = ["from_form"]

FORM_ONLY = {"_xsrf"}
"""Fields of the form that are no options."""


def from_form(fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the options of a sent form; what was left empty is left out. Raises InvalidRequest."""
    options = {}
    for name, values in fields.items():
        if name in FORM_ONLY:
            continue
        if len(values) != 1 or not isinstance(values[0], str):
            raise InvalidRequest(f"{str(name)[:60]!r} was given {len(values)} times.")
        if value := values[0].strip():
            options[name] = value
    return options
