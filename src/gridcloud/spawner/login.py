"""What the hub knows of a user from their login, as it lies, encrypted, in JupyterHub's ``auth_state``.

``auth_state["gridcloud"]`` holds ``addresses`` (e-mail addresses that were verified) and ``contexts`` (courses of a
learning platform); the HeaderAuthenticator adds ``subject``, ``headers`` and ``data`` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gridcloud.settings import HubSettings

__all__ = ["CONTEXT", "OWN", "Login", "keep_contexts", "login_of", "note_person"]

OWN = "gridcloud"
"""Our key of the auth_state."""

CONTEXT = "https://purl.imsglobal.org/spec/lti/claim/context"
"""The claim of LTI 1.3 that says which course a user comes from."""

MOST_CONTEXTS = 200
"""Courses that a user came from, of which the last are known."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a login told of a user."""

    addresses: frozenset[str] = frozenset()
    """E-mail addresses that were verified, in lower case."""
    contexts: frozenset[str] = frozenset()
    """Courses of a learning platform."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the user's sessions."""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Kept headers and set values, by name: texts, or what was read of JSON."""


def login_of(auth_state: Mapping[str, Any] | None, hub: HubSettings) -> Login:
    """Return what an auth_state tells; nothing where there is none."""
    state = auth_state if isinstance(auth_state, Mapping) else {}
    own = _mapping(state.get(OWN))
    headers, data = _mapping(state.get("headers")), _mapping(state.get("data"))
    values: dict[str, Any] = {}
    environment = {}
    if hub.header is not None:
        # A value that pages set never stands for a header.
        values = {name: data[name] for name in hub.header.settable if name in data}
        values |= {name: headers[name] for name in hub.header.keep if name in headers}
        by_name = {name.lower(): name for name in hub.header.keep}
        for variable, source in hub.header.environment.items():
            value = values.get(by_name.get(source.lower(), source))
            if value is not None and "\0" not in (text := _text(value)):
                environment[variable] = text
    return Login(_texts(own.get("addresses")), _texts(own.get("contexts")), environment, values)


def note_person(authenticator: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state with what a login by OpenID Connect or LTI tells of courses and addresses."""
    about = _mapping(state.get(getattr(authenticator, "user_auth_state_key", "") or ""))
    own: dict[str, list[str]] = {"addresses": [], "contexts": []}
    address = about.get("email")
    if about.get("email_verified") is True and isinstance(address, str):
        own["addresses"] = [address.strip().lower()]
    course = _mapping(state.get(CONTEXT)).get("id")
    if isinstance(course, str) and course:
        own["contexts"] = [course]
    return {**state, OWN: own}


def keep_contexts(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of now with the courses that its user came from earlier."""
    earlier = _mapping(_mapping(before).get(OWN)).get("contexts")
    own = _mapping(now.get(OWN))
    both = dict.fromkeys([*(earlier if isinstance(earlier, list) else ()), *own.get("contexts", ())])
    return {**now, OWN: {**own, "contexts": list(both)[-MOST_CONTEXTS:]}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(value: Any) -> frozenset[str]:
    return (
        frozenset(one for one in value if isinstance(one, str))
        if isinstance(value, Iterable)
        else frozenset()
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
