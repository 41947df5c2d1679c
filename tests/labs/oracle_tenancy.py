"""What Oracle's cloud holds for one customer: the records of `tests.labs.oracle`, their ways through time, its words.

Bodies are read and written by Oracle's own models (`oci.core.models`, …): a field that they do not have, a value of
another type, one that is not in an enumeration or a required one that is missing is refused as Oracle refuses it.
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "Call",
    "Fault",
    "Refusal",
    "Route",
    "Tenancy",
    "Thing",
    "User",
    "check_answer",
    "not_found",
    "read_body",
]

REGION = "eu-frankfurt-1"


class Refusal(Exception):
    """An answer that is none: a status and Oracle's code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def not_found(what: str = "resource") -> Refusal:
    """Return what Oracle says of what is not there, and in the same words of what one may not see."""
    return Refusal(404, "NotAuthorizedOrNotFound", f"Authorization failed or requested {what} not found.")


@dataclass
class Thing:
    """One record: its words as the API has them, and the states that it goes to by itself."""

    kind: str
    words: dict[str, Any]
    plan: list[tuple[float, str]] = field(default_factory=list)
    """Times of the monotonic clock, each with the state that begins then."""
    hidden: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.words["id"])

    @property
    def state(self) -> str:
        return str(self.words.get("lifecycleState", ""))

    @property
    def lives(self) -> bool:
        return self.state not in {"TERMINATED", "DELETED", "DETACHED"}

    @property
    def tags(self) -> dict[str, str]:
        return self.words.get("freeformTags") or {}

    def become(self, state: str, later: str = "", seconds: float = 0) -> None:
        """Be in a state now, and in another one so many seconds later."""
        self.words["lifecycleState"] = state
        self.plan = [(time.monotonic() + seconds, later)] if later else []


@dataclass(frozen=True)
class User:
    """Who may ask: the key, and the compartments that may be used; None: all."""

    key: Any
    compartments: frozenset[str] | None = None
    forbidden: frozenset[str] = frozenset()
    """What this user may not: `capacityreport`, `delete`."""


@dataclass
class Fault:
    """What goes wrong: the operations that match, how often, and how."""

    method: str
    path: str
    """A regular expression that is searched in the path and query."""
    times: int = 1
    status: int = 0
    """Answer this status; 0: close the connection without a word."""
    code: str = "InternalError"
    message: str = "An internal error has occurred."
    done: bool = False
    """Do it first: only the answer is lost."""
    half: bool = False
    """Give half of the answer's text, and its end."""
    silent: float = 0
    """Wait so many seconds first."""


@dataclass
class Call:
    """One request with a verified signature."""

    tenancy: Tenancy
    user: User
    method: str
    path: str
    query: dict[str, str]
    parts: dict[str, str]
    body: Any = None
    retry_token: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answer."""

    def need(self, name: str) -> str:
        """Return a parameter of the query that must be there."""
        if not (value := self.query.get(name)):
            raise Refusal(400, "MissingParameter", f"The required parameter {name} is missing.")
        return value

    def compartment(self, compartment: str) -> str:
        """Return a compartment that this user may use."""
        known = compartment in self.tenancy.compartments
        if not known or (self.user.compartments is not None and compartment not in self.user.compartments):
            raise not_found()
        return compartment

    def thing(self, *kinds: str) -> Thing:
        """Return the record that the path names, if it is there and may be seen."""
        thing = self.tenancy.things.get(self.parts["id"])
        if thing is None or thing.kind not in kinds:
            raise not_found(kinds[0])
        self.compartment(thing.words["compartmentId"])
        return thing


@dataclass(frozen=True)
class Route:
    """One operation: `path` with {names}, the model it takes and the model it gives (one, or a list of them)."""

    method: str
    path: str
    work: Callable[[Call], Any]
    takes: Any = None
    gives: Any = None


class Tenancy:
    """All records of one customer. Every request is served under `lock`."""

    def __init__(self, region: str = REGION, domains: int = 2) -> None:
        self.lock = threading.RLock()
        self.region = region
        self.id = self.new_id("tenancy")
        self.domains = [f"Uocm:{region.upper()}-AD-{number + 1}" for number in range(domains)]
        self.compartments = {self.id: "root"}
        self.users: dict[str, User] = {}
        self.things: dict[str, Thing] = {}
        self.tokens: dict[tuple[str, str], tuple[str, str]] = {}
        self.faults: list[Fault] = []
        self.limits: dict[str, int] = {}
        """Service limits by name, for each availability domain."""
        self.quotas: dict[str, int] = {}
        """Quotas of the compartment by name, for each availability domain."""
        self.hosts: dict[str, int] = {}
        """OCPUs that an availability domain has for a shape; without an entry, any number."""
        self.page = 100
        self.seconds = 0.1
        """How long a machine takes to start, to stop and to end."""
        self.address: Callable[[Thing], tuple[str, str]] = self._address
        """Gives a new machine its public and private address."""
        self.asked: list[str] = []
        """The operations that were asked for: method and path."""
        self._addresses = iter(range(2, 65000))

    def new_id(self, kind: str) -> str:
        return f"ocid1.{kind}.oc1.{getattr(self, 'region', REGION)}.{secrets.token_hex(20)}"

    def add_compartment(self, name: str) -> str:
        made = self.new_id("compartment")
        self.compartments[made] = name
        return made

    def add(self, kind: str, words: dict[str, Any], **hidden: Any) -> Thing:
        """Keep a new record under an id of its own."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        thing = Thing(kind, {"id": self.new_id(kind), "timeCreated": now, **words}, hidden=hidden)
        self.things[thing.id] = thing
        return thing

    def of(self, kind: str, **words: Any) -> Iterator[Thing]:
        """Yield the records of a kind with these words, the oldest first."""
        for thing in list(self.things.values()):
            if thing.kind == kind and all(thing.words.get(key) == value for key, value in words.items()):
                yield thing

    def settle(self) -> None:
        """Bring every record to the state that its time has come for."""
        now = time.monotonic()
        for thing in list(self.things.values()):
            while thing.plan and thing.plan[0][0] <= now:
                thing.words["lifecycleState"] = thing.plan.pop(0)[1]

    def fail(self, method: str, path: str, **how: Any) -> Fault:
        """Let operations fail; see Fault."""
        fault = Fault(method, path, **how)
        with self.lock:
            self.faults.append(fault)
        return fault

    def _address(self, thing: Thing) -> tuple[str, str]:
        number = next(self._addresses)
        return f"203.0.{number // 256}.{number % 256}", f"10.173.{number // 256}.{number % 256}"


def read_body(model: Any, data: Any, where: str = "body") -> None:
    """Hold what a client sent to a model. Raises Refusal as Oracle does."""
    if not isinstance(data, dict):
        raise Refusal(400, "CannotParseRequest", f"Incorrectly formatted request: {where} is no object.")
    _check(model, data, where, Refusal, required=True)


def check_answer(model: Any, data: Any) -> None:
    """Hold what the server says to a model. Raises AssertionError: the server would be at fault."""
    for one in data if isinstance(data, list) else [data]:
        _check(model, one, model.__name__, lambda _status, _code, text: AssertionError(text), required=False)


def _check(
    model: Any,
    data: dict[str, Any],
    where: str,
    refusal: Callable[[int, str, str], Exception],
    required: bool,
) -> None:
    package = sys.modules[model.__module__.rpartition(".")[0]]
    if hasattr(model, "get_subtype"):
        model = getattr(package, model.get_subtype(data))
    empty = model()
    names = {theirs: ours for ours, theirs in empty.attribute_map.items()}
    for theirs, value in data.items():
        if theirs not in names:
            raise refusal(
                400, "CannotParseRequest", f"Unrecognized field {where}.{theirs} of {model.__name__}."
            )
        ours = names[theirs]
        if value is not None:
            _check_value(package, empty.swagger_types[ours], value, f"{where}.{theirs}", refusal, required)
        try:
            setattr(empty, ours, value)
        except ValueError as error:
            raise refusal(400, "InvalidParameter", f"{where}.{theirs}: {error}") from error
        if getattr(empty, ours) == "UNKNOWN_ENUM_VALUE":
            raise refusal(400, "InvalidParameter", f"{where}.{theirs}: {value!r} is not one of the values.")
    for theirs, ours in names.items():
        text = getattr(model, ours).__doc__ or ""
        if required and "**[Required]**" in text and data.get(theirs) is None:
            raise refusal(400, "MissingParameter", f"{where}.{theirs} must not be null.")


PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "object": object,
    "datetime": str,
}


def _check_value(
    package: Any, kind: str, value: Any, where: str, refusal: Callable[..., Exception], required: bool
) -> None:
    wrong = refusal(400, "InvalidParameter", f"{where} has the wrong type: {kind} is expected.")
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise wrong
        for index, one in enumerate(value):
            _check_value(package, kind[5:-1], one, f"{where}[{index}]", refusal, required)
    elif kind.startswith("dict("):
        if not isinstance(value, dict):
            raise wrong
        inner = kind[5:-1].split(", ", 1)[1]
        for key, one in value.items():
            _check_value(package, inner, one, f"{where}.{key}", refusal, required)
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind in {"int", "float"} and isinstance(value, bool)):
            raise wrong
    elif not isinstance(value, dict):
        raise wrong
    else:
        _check(getattr(package, kind), value, where, refusal, required)
