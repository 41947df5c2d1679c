"""What a simulation is of: how many institutions, which network, which load; read from YAML, and nothing left out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import random
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from gridcloud.errors import InvalidSettings
from gridcloud.federation.policy import read_policy
from gridcloud.settings.document import Document, Fault, read_document

__all__ = ["Cut", "Scenario", "draw_arrivals", "read_scenario"]

WEEK = 7 * 24.0
Seconds = Annotated[float, Field(ge=0)]
Rooms = Annotated[int, Field(ge=1, le=10_000)]
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Cut:
    """A partition: the first ``part`` of the members hears nothing of the others for a while."""

    begins: float = Field(ge=0)
    """Hours after the lending begins."""
    ends: float = Field(ge=0)
    part: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ends < self.begins:
            raise ValueError("it ends before it begins")
        return self


@dataclass(frozen=True, config=_STRICT)
class Scenario:
    """A simulation. The same scenario gives the same results."""

    members: int = Field(default=100, ge=2, le=1000)
    seed: int = 1
    signatures: Literal["real", "counted"] = "real"
    """``real``: every message and record is signed and checked. ``counted``: this is counted only, and everybody knows
    the others' keys from the beginning."""
    loss: float = Field(default=0.01, ge=0, lt=1)
    """Part of the messages that is lost."""
    latency: tuple[Seconds, Seconds] = (0.01, 0.1)
    """Seconds that a message takes, at least and at most."""
    skew: float = Field(default=20, ge=0)
    """Seconds that clocks are wrong by, at most, either way."""
    cuts: tuple[Cut, ...] = ()
    churn: float = Field(default=0.0, ge=0)
    """How often in an hour a member goes away."""
    away: float = Field(default=0.2, ge=0)
    """Hours that it stays away; it comes back with what it stored."""
    quiet: float = Field(default=120, ge=0)
    """Seconds of gossip with no news that are watched after all is known."""
    hours: float = Field(default=6, ge=0)
    """Hours of lending."""
    begins: float = 8.0
    """Hour of the week at which it begins: 0 is Monday, midnight."""
    rooms: tuple[Rooms, Rooms] = (4, 40)
    """Sessions that an institution has room for, at least and at most."""
    load: float = Field(default=0.6, ge=0)
    """Part of its room that an institution's own users need on average."""
    session: float = Field(default=2.0, gt=0)
    """Hours of a session on average."""
    exams: int = Field(default=3, ge=0)
    """Each week, one of so many groups of institutions has its exams; 0: nobody ever."""
    rush: float = Field(default=2.5, ge=1)
    """By how much more is needed in a week of exams."""
    takers: float = Field(default=0.0, ge=0, le=1)
    """Part of the institutions that borrow and never lend."""
    asked: int = Field(default=4, ge=0, le=64)
    """Peers that are asked for one session at a time; 0: all stay at home."""
    policy: str = "True"
    reserve: float = Field(default=0.0, ge=0, le=1)
    """Part of its room that a lender keeps for its own users."""
    reclaim: bool = True
    """Whether lenders take room back for their own users."""
    ttl: float = Field(default=900, gt=120)
    """Seconds after which a lease that is not renewed is free."""
    patience: float = Field(default=0.25, ge=0)
    """Hours that a user waits for room before giving up."""

    @field_validator("latency", "rooms")
    @classmethod
    def _in_order(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] > pair[1]:
            raise ValueError("the least comes first, the most second")
        return pair

    @field_validator("policy")
    @classmethod
    def _readable(cls, policy: str) -> str:
        try:
            read_policy(policy)
        except InvalidSettings as error:
            raise ValueError(str(error)) from error
        return policy


def read_scenario(text: str, name: str = "the scenario") -> Scenario:
    """Return the scenario in a YAML text; ``name`` is its file's, for messages.

    Raises InvalidSettings with everything that is wrong, one fault in a line with its place.
    """
    document = read_document(name, text, example="members: 100")
    if not document.faults:
        try:
            return TypeAdapter(Scenario).validate_python(document.values)
        except ValidationError as error:
            _explain(document, error)
    faults = sorted(document.faults, key=_position)
    raise InvalidSettings(
        "\n".join(map(str, faults)), details={"faults": [dataclasses.asdict(fault) for fault in faults]}
    )


def _position(fault: Fault) -> tuple[int, ...]:
    """Return the line and the column; nothing for the whole text."""
    return tuple(int(part) for part in fault.place.split(":")[-2:] if part.isdigit())


def _explain(document: Document, error: ValidationError) -> None:
    """Note pydantic's errors in our words, each at the place of its key."""
    for fault in error.errors(include_url=False):
        key = fault["loc"]
        if fault["type"] == "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(Cut if len(key) > 1 else Scenario)]
            near = difflib.get_close_matches(str(key[-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            document.fault(key, f"unknown key; {hint}")
        elif fault["type"] == "missing":
            document.fault(key, "this key is missing")
        else:
            said = str(fault["msg"]).removeprefix("Value error, ")
            found = fault["input"]
            told = f"; found {found!r:.60}" if isinstance(found, str | int | float) else ""
            document.fault(key, f"{said[:1].lower()}{said[1:]}{told}")


def draw_arrivals(
    scenario: Scenario, member: int, rooms: int, chance: random.Random
) -> Iterator[tuple[float, float]]:
    """Yield when each session of an institution's own users begins, and how long it lasts, in hours.

    A Poisson process whose rate follows the hour of the day, the end of the week and the weeks of exams (by thinning:
    Lewis and Shedler, 1979); lengths are exponential, of 6 minutes at least. As many as usual, but no more than fit,
    run at the beginning.
    """
    usual = rooms * scenario.load / scenario.session
    running = usual * _weight(scenario.begins) * _exams(scenario, member, scenario.begins) * scenario.session
    for _ in range(min(rooms, round(running))):
        yield 0.0, max(0.1, chance.expovariate(1 / scenario.session))
    highest = usual * 1.7 * scenario.rush
    now = 0.0
    while highest:
        now += chance.expovariate(highest)
        if now >= scenario.hours:
            return
        rate = usual * _weight(scenario.begins + now) * _exams(scenario, member, scenario.begins + now)
        length = max(0.1, chance.expovariate(1 / scenario.session))
        if chance.random() * highest < rate:
            yield now, length


def _weight(hour: float) -> float:
    """Return how much more than on average is needed at an hour of the week: most at 15 o'clock, least at 3."""
    day = 1 + 0.7 * math.sin((hour % 24 - 9) / 24 * 2 * math.pi)
    return day * (0.4 if hour % WEEK >= 5 * 24 else 1.0)


def _exams(scenario: Scenario, member: int, hour: float) -> float:
    if not scenario.exams:
        return 1.0
    return scenario.rush if member % scenario.exams == int(hour // WEEK) % scenario.exams else 1.0
