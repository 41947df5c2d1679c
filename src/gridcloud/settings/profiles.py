"""What a hub offers, and to whom: profiles, and courses that gather a roster, its profiles and its rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from gridcloud.settings.budgets import TimeZone, Words
from gridcloud.settings.request import Request
from gridcloud.settings.values import Duration, Size

__all__ = [
    "PROFILE_NAME",
    "AudienceSettings",
    "ChoiceSettings",
    "CourseSettings",
    "ProfileLimits",
    "ProfileSettings",
    "RosterSettings",
    "SeatSettings",
    "SpawnerSettings",
]

FOLDER_NAME = re.compile(r"(|[A-Za-z0-9_][\w.@+ -]*(/[A-Za-z0-9_][\w.@+ -]*)*)")
"""A plain relative path: no part of it is empty or begins with a dot."""

PROFILE_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

CLASS_NAME = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


def _check_days(since: date | None, until: date | None) -> None:
    if since and until and until < since:
        raise ValueError(f"it ends ({until}) before it begins ({since})")


def _is_within(one: str, other: str) -> bool:
    """Whether one of two folders is the other, or lies in it."""
    return bool(one and other) and (f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"))


def _as_many(given: Any) -> Any:
    return (given,) if isinstance(given, str | Mapping) else given


def _as_text(value: Any) -> Any:
    """Return numbers as a person wrote them; a size or time is checked by the request's own field."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{value!r} is nothing to choose; write a number or a text")
    return re.sub(r"\.0$", "", str(value)) if isinstance(value, int | float) else value


def _as_texts(given: Any) -> Any:
    return tuple(_as_text(value) for value in given) if isinstance(given, list | tuple) else given


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileLimits(_Part):
    """The most that one user may have; what is not given has no limit here."""

    cpus: float | None = Field(default=None, gt=0, description="CPU cores of one session")
    memory: Size | None = Field(default=None, description="memory of one session, e.g. 16GiB")
    disk: Size | None = Field(default=None, description="disk of one session, e.g. 100GiB")
    gpus: int | None = Field(default=None, ge=0, description="GPUs of one session")
    time: Duration | None = Field(default=None, description="time limit of one session, e.g. 8h")
    idle: Duration | None = Field(default=None, description="longest that one session may go without use")
    sessions: int | None = Field(default=None, ge=1, description="sessions of one user at once")


class AudienceSettings(_Part):
    """Some of the users, for some of the time. One that names nobody is everybody."""

    users: Words = Field(default=(), description="users, one or a list")
    groups: Words = Field(default=(), description="groups, one or a list")
    since: date | None = Field(default=None, description="first day, e.g. 2026-09-01")
    until: date | None = Field(default=None, description="last day, e.g. 2027-01-31")
    limits: ProfileLimits = Field(
        default_factory=ProfileLimits, description="the most that one of these may have"
    )

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        _check_days(self.since, self.until)
        return self


class ChoiceSettings(_Part):
    """What a user may choose of one field of a request: some values, a range, or anything."""

    values: Annotated[tuple[str, ...], BeforeValidator(_as_texts)] = Field(
        default=(), description="these values, the first one chosen unless told otherwise"
    )
    least: str = Field(default="", description="at least, e.g. 1 or 2GiB")
    most: str = Field(default="", description="at most, e.g. 8 or 16GiB")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if given == "any":
            return {}
        if isinstance(given, list | tuple):
            return {"values": given}
        if isinstance(given, Mapping):
            return {
                key: _as_text(value) if key in ("least", "most") else value for key, value in given.items()
            }
        raise ValueError(f"{given!r:.60} is no choice; write a list of values, {{least: 1, most: 8}}, or any")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.values and (self.least or self.most):
            raise ValueError("a choice is a list of values or a range, not both")
        return self


class SpawnerSettings(_Part):
    """A JupyterHub spawner that starts the sessions of a profile, in place of gridcloud's own."""

    class_: str = Field(
        alias="class",
        pattern=CLASS_NAME,
        max_length=200,
        description="class of the spawner, with its module, e.g. dockerspawner.DockerSpawner",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="its traits; {JUPYTERHUB_USER} and the like stand in their texts for what they are",
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ProfileSettings(_Part):
    """One line of the spawn page: what is asked for, what of it may be chosen, by whom."""

    title: str = Field(default="", max_length=200, description="what users read; its name when not given")
    description: str = Field(default="", max_length=2000, description="what it is for, in a sentence or two")
    request: Request = Field(
        default_factory=Request,
        description="fields of a request that it sets: cpus, memory, gpus, image, on, …",
    )
    choose: dict[str, ChoiceSettings] = Field(
        default_factory=dict, description="fields of the request that users may choose, and from what"
    )
    configure: tuple[dict[str, Any], ...] = Field(
        default=(), description="what makes its machines fit, as in a request: packages, script, ansible"
    )
    before_start: tuple[dict[str, Any], ...] = Field(
        default=(), description="hooks to run before its sessions start, after those of the hub, as there"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment variables of its sessions"
    )
    requirements: Words = Field(
        default=(),
        description="Python packages that users may add when they start, by name, with * for any part of it: torch*; "
        "none when not given",
    )
    spawner: SpawnerSettings | None = Field(
        default=None,
        description="a JupyterHub spawner that starts its sessions; gridcloud's own when not given",
    )
    offered: Annotated[tuple[AudienceSettings, ...], BeforeValidator(_as_many)] | None = Field(
        default=None,
        description="to whom, and when; everybody and always when not given, for an empty list to courses alone",
    )
    limits: ProfileLimits = Field(
        default_factory=ProfileLimits, description="the most that anybody may have of it"
    )

    @field_validator("choose")
    @classmethod
    def _chooses_what_can_be(cls, choose: dict[str, ChoiceSettings]) -> dict[str, ChoiceSettings]:
        for name, choice in choose.items():
            if name not in Request.model_fields:
                raise ValueError(f"there is no field {name!r}; there are {', '.join(Request.model_fields)}")
            for value in (*choice.values, choice.least, choice.most):
                if value:
                    _parse(name, value)
            if choice.least or choice.most:
                _check_range(name, choice)
        return choose

    @model_validator(mode="after")
    def _adds_where_it_can(self) -> Self:
        if self.requirements and self.spawner is not None:
            raise ValueError("requirements are for sessions of gridcloud's own: another spawner starts these")
        return self

    @model_validator(mode="after")
    def _sets_one_of_those(self) -> Self:
        for name in self.request.model_fields_set & self.choose.keys():
            values = self.choose[name].values
            if values and getattr(self.request, name) not in [_parse(name, value) for value in values]:
                raise ValueError(f"{name} is set to none of those to choose from: {', '.join(values)}")
        return self


def _parse(name: str, value: str) -> Any:
    """Return what a text means for a field of a request. Raises ValueError that names the field."""
    try:
        return getattr(Request.model_validate({name: value}), name)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name}: {said[:1].lower()}{said[1:]}") from None


def _check_range(name: str, choice: ChoiceSettings) -> None:
    least, most = (_parse(name, end) if end else None for end in (choice.least, choice.most))
    for end in (least, most):
        if end is not None and (isinstance(end, bool) or not isinstance(end, int | float | Decimal)):
            raise ValueError(f"{name} has no least and most; write a list of values")
    if least is not None and most is not None and most < least:
        raise ValueError(f"{name} is at least {choice.least} and at most {choice.most}")


class RosterSettings(_Part):
    """Who is in a course: all of these together."""

    users: Words = Field(default=(), description="users, one or a list")
    groups: Words = Field(default=(), description="groups, as the authenticator names them, one or a list")
    lti: Words = Field(default=(), description="contexts of LTI 1.3, as the learning platform names them")
    file: str = Field(
        default="",
        max_length=1000,
        description="a list of user names or e-mail addresses, one a line, or a CSV file with such a column; "
        "read anew when it changes",
    )


class SeatSettings(_Part):
    """Machines kept ready for a course on certain days, for whoever of it comes."""

    days: Words = Field(min_length=1, description="days of the week, or dates as 2026-09-01, one or a list")
    opens: time = Field(description='from when on they are made and kept ready, e.g. "08:50"')
    closes: time = Field(description='when those that nobody took are ended, e.g. "11:00"')
    time_zone: TimeZone = Field(description="time zone of these times, e.g. Europe/Oslo")
    count: int = Field(ge=1, le=1000, description="machines, those that are taken included")
    profile: str = Field(
        default="",
        max_length=63,
        description="profile that they are made by; the course's first when not given",
    )

    @field_validator("opens", "closes", mode="before")
    @classmethod
    def _as_time(cls, given: Any) -> Any:
        # YAML reads 08:50 as a text, but 10:50 as a number of minutes in base 60.
        if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 24 * 60:
            given = f"{given // 60:02}:{given % 60:02}"
        if not isinstance(given, str) or not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", given):
            raise ValueError(f'{given!r:.40} is no time of the day such as "08:50"')
        hour, minute = given.split(":")
        return time(int(hour), int(minute))

    @field_validator("days", mode="before")
    @classmethod
    def _as_days(cls, given: Any) -> Any:
        days = given if isinstance(given, list | tuple) else (given,)
        return tuple(str(day).casefold() for day in days)

    @model_validator(mode="after")
    def _is_a_lecture(self) -> Self:
        for day in self.days:
            if day not in WEEKDAYS:
                try:
                    date.fromisoformat(day)
                except ValueError:
                    raise ValueError(f"{day!r:.40} is no day such as tuesday or 2026-09-01") from None
        if self.closes <= self.opens:
            raise ValueError(f"they close ({self.closes:%H:%M}) before they open ({self.opens:%H:%M})")
        return self


class CourseSettings(_Part):
    """A course: a roster, what it may use and when, and who pays."""

    title: str = Field(default="", max_length=200, description="what people read; its name when not given")
    roster: RosterSettings = Field(default_factory=RosterSettings, description="who is in it")
    teachers: Words = Field(default=(), description="users who teach it, and may use what it may")
    profiles: Words = Field(default=(), description="profiles that it may use, one or a list")
    since: date | None = Field(default=None, description="first day, e.g. 2026-09-01")
    until: date | None = Field(default=None, description="last day, e.g. 2027-01-31")
    limits: ProfileLimits = Field(
        default_factory=ProfileLimits, description="the most that one of its students may have"
    )
    project: str = Field(
        default="", max_length=300, description="project whose budget its sessions are charged to"
    )
    handout: str = Field(
        default="",
        max_length=500,
        description="folder below hub.course_folders that its sessions can read, and not change",
    )
    shared: str = Field(
        default="",
        max_length=500,
        description="folder below hub.course_folders that its sessions read and write together",
    )
    seats: Annotated[tuple[SeatSettings, ...], BeforeValidator(_as_many)] = Field(
        default=(), description="machines kept ready for its lectures, one or a list"
    )

    @field_validator("handout", "shared")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not FOLDER_NAME.fullmatch(name):
            raise ValueError(
                "this is no plain path of a folder below hub.course_folders, such as physics-101/handout"
            )
        return name

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        _check_days(self.since, self.until)
        for seat in self.seats:
            if not self.profiles or (seat.profile and seat.profile not in self.profiles):
                raise ValueError(
                    f"its seats need one of its profiles: {', '.join(self.profiles) or 'it has none'}"
                )
        if self.shared and _is_within(self.shared, self.handout):
            raise ValueError("what is shared would lie in the hand-out, or the other way round")
        return self
