"""libcloud's words and ours: what a driver of it can do, how its nodes are named, its states and errors."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests.exceptions
from libcloud.common.exceptions import BaseHTTPError
from libcloud.common.types import (
    InvalidCredsError,
    LibcloudError,
    MalformedResponseError,
    ServiceUnavailableError,
)
from libcloud.compute.types import NodeState

from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Transient,
    Unreachable,
    Untrusted,
)
from gridcloud.instances.model import Phase

__all__ = ["Abilities", "Names", "abilities_of", "account_of", "phase_of", "translate"]

USER_DATA = (
    "ex_userdata",
    "ex_user_data",
    "ex_customdata",
    "ex_custom_data",
    "userdata",
    "user_data",
    "cloud_init",
)
"""Arguments of create_node that take user data, as libcloud's drivers name them."""

INSTALLATION = "gridcloud-installation"
INSTANCE = "gridcloud-instance"
"""The names of our tags."""


ACCOUNTS = (("ex_account_info", ("uuid", "id")), ("ex_read_account", ("AccountId",)))
"""Methods that tell whose the credentials are, as libcloud's drivers name them, and where in their answer the id is."""


def account_of(driver: Any) -> str:
    """Return the id of the account that libcloud's driver is logged in to; empty where it does not tell. Blocking."""
    for name, keys in ACCOUNTS:
        if method := getattr(driver, name, None):
            try:
                told = method()
            except Exception:  # a right that the key need not have; each driver says so in its own words
                return ""
            found = [str(told[key]) for key in keys if isinstance(told, Mapping) and told.get(key)]
            return found[0] if found else ""
    return ""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a driver can do, as its signatures say."""

    arguments: frozenset[str]
    """Those of create_node."""
    user_data: str
    """The argument that takes user data, or ARGUMENT.KEY; empty: none does."""
    tags: bool
    """Whether nodes are given a mapping of tags that is told again with them."""
    token: str
    """The argument that takes an idempotency token; empty: none does."""
    logs_in_by: tuple[str, ...]
    """ssh_key, password, generates_password: how libcloud's own deployment would log in."""
    locations: bool
    volumes: bool

    def user_data_arguments(self, text: str) -> dict[str, Any]:
        """Return the arguments of create_node that hand over user data."""
        name, _, key = self.user_data.partition(".")
        return {name: {key: text} if key else text}


def abilities_of(driver: Any, user_data: str = "") -> Abilities:
    """Return what a driver can do. ``user_data`` names the argument that takes it, where it has an unusual name."""
    kind = type(driver)
    parameters = inspect.signature(kind.create_node).parameters
    arguments = frozenset(name for name in parameters if name != "self")
    usual = next((name for name in USER_DATA if name in arguments), "")
    if not usual and kind.__name__ == "GCENodeDriver":
        usual = "ex_metadata.user-data"
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    if user_data and not open_ended and user_data.partition(".")[0] not in arguments:
        raise InvalidSettings(
            f"create_node of libcloud's {kind.__name__} has no argument {user_data.partition('.')[0]!r}.",
            remedy=f"It has: {', '.join(sorted(arguments))}. Correct 'user_data'.",
        )
    return Abilities(
        arguments=arguments,
        user_data=user_data or usual,
        tags="ex_metadata" in arguments,
        token=next((name for name in ("ex_clienttoken", "ex_client_token") if name in arguments), ""),
        logs_in_by=tuple(getattr(kind, "features", {}).get("create_node") or ()),
        locations="location" in arguments,
        volumes=_has(kind, "list_volumes"),
    )


class Names:
    """How nodes of one installation are named and recognized."""

    def __init__(self, installation: str) -> None:
        self.installation = installation
        self._prefix = f"gridcloud-{hashlib.sha256(installation.encode()).hexdigest()[:8]}-"

    def name(self, instance_id: str) -> str:
        """Return a node's name."""
        return self._prefix + instance_id

    def tags(self, instance_id: str) -> dict[str, str]:
        """Return a node's tags."""
        return {INSTALLATION: self.installation, INSTANCE: instance_id}

    def instance_of(self, node: Any) -> str:
        """Return the id of the instance that a node was made for; empty where it is not ours.

        Where a node has our tags they decide; else its name does, or the token that it was made with.
        """
        tags = _tags(node)
        if INSTALLATION in tags:
            return str(tags.get(INSTANCE, "")) if tags[INSTALLATION] == self.installation else ""
        for text in (str(node.name or ""), str((node.extra or {}).get("client_token") or "")):
            found = text.removeprefix(self._prefix)
            if found != text and re.fullmatch(r"[a-z0-9][a-z0-9-]{2,40}", found):
                return found
        return ""


_ENDED = frozenset({NodeState.STOPPED, NodeState.SUSPENDED, NodeState.ERROR, NodeState.PAUSED})
_RUNNING = frozenset({NodeState.RUNNING, NodeState.REBOOTING, NodeState.NORMAL, NodeState.MIGRATING})
_WORDS_GONE = frozenset({"terminated", "shutting-down", "deleted", "deleting", "soft_deleted", "soft-delete"})
_WORDS_ENDED = frozenset({"stopped", "stopping", "shutoff", "error", "off"})


def phase_of(node: Any) -> Phase:
    """Return what a node is, by libcloud's state and, where that hides it, by the provider's own word."""
    extra = node.extra or {}
    words = {str(extra.get(key) or "").lower() for key in ("status", "task_state", "vm_state", "state")}
    if node.state is NodeState.TERMINATED or words & _WORDS_GONE:
        return Phase.GONE
    if node.state in _ENDED or (node.state is NodeState.UNKNOWN and words & _WORDS_ENDED):
        return Phase.FAILED
    return Phase.RUNNING if node.state in _RUNNING else Phase.PENDING


def translate(error: Exception, label: str) -> GridcloudError:
    """Return what an error of libcloud is in our words. ``label`` names whom we asked."""
    said = _said(error)
    for kinds, ours, what, remedy in _KINDS:
        if isinstance(error, kinds):
            return ours(f"{label}: {what}{f': {said}' if said else ''}", remedy=remedy)
    code = int(error.code) if isinstance(error, BaseHTTPError) and str(error.code).isdigit() else 0
    for pattern, ours, remedy in _SAID:
        if re.search(pattern, said, re.IGNORECASE):
            return ours(f"{label}: {said}", remedy=remedy)
    for number, ours, remedy in _CODES:
        if number in (code, code // 100):
            return ours(f"{label}: {said or f'it answered with {code}'}", remedy=remedy)
    return InvalidRequest(f"{label}: {said or type(error).__name__}")


_CREDENTIALS = "Look at 'arguments' of the provider's entry."
_QUOTA = "End something, take a smaller shape, or ask the provider for a larger quota."

_KINDS: tuple[tuple[tuple[type[Exception], ...], type[GridcloudError], str, str], ...] = (
    ((InvalidCredsError,), InvalidSettings, "the credentials are refused", _CREDENTIALS),
    (
        (requests.exceptions.SSLError,),
        Untrusted,
        "its certificate is not trusted",
        "Name its authority's file.",
    ),
    ((requests.exceptions.Timeout, TimeoutError), TimedOut, "no answer in time", "Try again later."),
    (
        (requests.exceptions.ConnectionError, ConnectionError, OSError),
        Unreachable,
        "it does not answer",
        "Look at its address in 'arguments', and whether the provider is up.",
    ),
    ((MalformedResponseError,), Transient, "an answer that is none", "Look at its address in 'arguments'."),
    ((ServiceUnavailableError,), Transient, "it is not available", "Try again later."),
    (
        (NotImplementedError,),
        InvalidSettings,
        "libcloud's driver for it cannot do this",
        "Take another driver.",
    ),
)
"""What libcloud and its libraries raise, ours, what it means, what to do."""

_SAID: tuple[tuple[str, type[GridcloudError], str], ...] = (
    (
        r"rate limit|throttl|too many requests|RequestLimitExceeded",
        Throttled,
        "It will be tried again, more slowly.",
    ),
    (r"quota|limit ?exceeded|limit (has been )?reached|too many (instances|droplets)", QuotaExceeded, _QUOTA),
    (
        r"insufficient.{0,20}capacity|no valid host|out of (stock|capacity)|not enough (capacity|resources)",
        NoCapacity,
        "",
    ),
    (
        r"AuthFailure|InvalidClientTokenId|SignatureDoesNotMatch|unauthori[sz]ed",
        InvalidSettings,
        _CREDENTIALS,
    ),
    (r"InvalidInstanceID|does(n't| not) exist|not found", NotFound, ""),
)
"""What many providers say, whatever the status of their answer. The first that fits is taken."""

_CODES: tuple[tuple[int, type[GridcloudError], str], ...] = (
    (401, InvalidSettings, _CREDENTIALS),
    (403, InvalidSettings, "Ask the provider for the right to do this."),
    (404, NotFound, ""),
    (408, TimedOut, "Try again later."),
    (409, Transient, "Try again."),
    (429, Throttled, "It will be tried again, more slowly."),
    (4, InvalidRequest, "Look at the provider's entry, and at what was asked for."),
    (5, Transient, "Try again later."),
)
"""HTTP status, or its first digit."""


def _tags(node: Any) -> Mapping[str, Any]:
    extra = node.extra or {}
    for key in ("tags", "metadata", "labels"):
        found = extra.get(key)
        if isinstance(found, Mapping) and found:
            return found
    return {}


def _has(kind: type[Any], method: str) -> bool:
    from libcloud.compute.base import NodeDriver

    return getattr(kind, method, None) is not getattr(NodeDriver, method, None)


def _said(error: Exception) -> str:
    text = getattr(error, "value", None) if isinstance(error, LibcloudError) else None
    plain = re.sub(r"<[^<>]{1,200}>", " ", str(text or error))  # some answer with a page
    return " ".join(plain.split())[:500]
