"""What a user may choose, from the form or the REST API: a request, checked the same way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Request

__all__ = ["from_form", "to_request"]

FORM_ONLY = {"_xsrf"}
"""Fields of the form that are no options."""


def from_form(fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the options of a sent form; what was left empty is left out. Raises InvalidRequest."""
    options = {}
    for name, values in fields.items():
        if name in FORM_ONLY:
            continue
        if len(values) != 1 or not isinstance(values[0], str):
            raise InvalidRequest(f"{_shown(name)} was given {len(values)} times.")
        if value := values[0].strip():
            options[name] = value
    to_request(options)
    return options


def to_request(options: Mapping[str, Any]) -> Request:
    """Return the request that a user's options make. Raises InvalidRequest for what is unknown or impossible."""
    for name in options:
        if name not in Request.model_fields:
            near = difflib.get_close_matches(str(name), Request.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(Request.model_fields)}."
            raise InvalidRequest(f"There is no option {_shown(name)}; {hint}")
    try:
        return Request.model_validate(dict(options))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        words = (
            f"{_shown('.'.join(map(str, fault['loc'])))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in faults
        )
        raise InvalidRequest("; ".join(words) + ".") from None


def _shown(name: Any) -> str:
    text = str(name)
    return repr(text if len(text) <= 60 else text[:60] + "…")
