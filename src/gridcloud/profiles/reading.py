"""Fields as a form or a program gave them, read as a request."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Request

__all__ = ["read_request"]

LONGEST = 60
"""Characters of a name or value that a message repeats."""


def read_request(fields: Mapping[str, Any]) -> Request:
    """Return the request that these fields make. Raises InvalidRequest for what is unknown or impossible."""
    for name in fields:
        if name not in Request.model_fields:
            near = difflib.get_close_matches(str(name), Request.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(Request.model_fields)}."
            raise InvalidRequest(f"There is no option {_shown(name)}; {hint}")
    try:
        return Request.model_validate(dict(fields))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        words = (
            f"{_shown('.'.join(map(str, fault['loc'])))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in faults
        )
        raise InvalidRequest("; ".join(words) + ".") from None


def _shown(name: Any) -> str:
    text = str(name)
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")
