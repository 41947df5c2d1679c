"""What the API says of the configuration, and is told to change in it."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ConfigurationState",
    "CourseLine",
    "CourseMembers",
    "Edit",
    "EditOrder",
    "FaultLine",
    "ProfileLine",
    "ProviderLine",
    "RevisionLine",
    "RevisionText",
    "Revisions",
    "RollBackOrder",
    "TextOrder",
    "Verb",
    "Verdict",
    "Written",
]


class FaultLine(BaseModel):
    """One thing wrong in the text."""

    place: str = Field(description="FILE:LINE:COLUMN, or an environment variable")
    key: str
    message: str


class Verdict(BaseModel):
    """Whether a text would be taken."""

    faults: list[FaultLine] = Field(default_factory=list, description="for these it is not taken")
    warnings: list[str] = Field(
        default_factory=list,
        description="drivers that cannot be loaded, rosters that cannot be read: it is taken all the same",
    )


class ProfileLine(BaseModel):
    """A profile in short."""

    name: str
    title: str
    spawner: str = Field(default="", description="class of the spawner where it is not gridcloud's own")
    offered: str = Field(description="to whom, in words")
    courses: list[str] = Field(default_factory=list)
    imported: bool = Field(default=False, description="from the MultipleSpawner's files")


class CourseLine(BaseModel):
    """A course in short."""

    name: str
    title: str
    teachers: list[str]
    profiles: list[str]
    since: date | None = None
    until: date | None = None
    listed: int = Field(description="users and addresses by name; groups and LTI contexts are not counted")
    problem: str = ""


class ProviderLine(BaseModel):
    """A provider in short."""

    name: str
    driver: str
    problem: str = ""


class ConfigurationState(Verdict):
    """The configuration file as it is now, and what it means while it is valid."""

    path: str
    text: str
    digest: str = Field(description="to say with a change, so that nobody else's is lost")
    number: int = Field(default=0, description="of the text in the history; 0 while it is not there")
    when: datetime | None = None
    who: str = ""
    profiles: list[ProfileLine] = Field(default_factory=list)
    courses: list[CourseLine] = Field(default_factory=list)
    providers: list[ProviderLine] = Field(default_factory=list)


class RevisionLine(BaseModel):
    """One text of the history in short."""

    number: int
    when: datetime
    who: str = Field(description="empty where the file was changed by hand")
    what: str
    digest: str
    now: bool = Field(default=False, description="it is what the file says")


class Revisions(BaseModel):
    """The history, the newest first."""

    revisions: list[RevisionLine]


class RevisionText(RevisionLine):
    """One text of the history."""

    text: str
    changes: str = Field(description="from the text before, as a unified diff")
    since: str = Field(description="from this text to that of now, as a unified diff")


class Written(BaseModel):
    """What became of a change."""

    number: int = Field(description="of the text in the history; 0 where nothing changed")
    digest: str
    warnings: list[str] = Field(default_factory=list)


class CourseMembers(BaseModel):
    """Who is in a course."""

    course: str
    teachers: list[str]
    users: list[str]
    groups: list[str]
    lti: list[str]
    listed: list[str] = Field(description="names and addresses in its file, in lower case")
    problem: str = ""


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    by: str = Field(default="", max_length=200, description="for whom the hub asks")
    what: str = Field(default="", max_length=200, description="what for, for the history")
    since: str | None = Field(
        default=None,
        max_length=64,
        description="digest of the text it was made for; refused (409) where the file says something else",
    )


class TextOrder(_Order):
    """A whole text to check or write."""

    text: str


class RollBackOrder(_Order):
    """An earlier text to write again."""

    number: int = Field(ge=1)


class Verb(StrEnum):
    """What is done to a value."""

    ADD = "add"
    """Refused where there is one."""
    CHANGE = "change"
    """Refused where the entry (profiles.x) is not there."""
    SET = "set"
    REMOVE = "remove"


class Edit(BaseModel):
    """One value to change, by the keys that lead to it."""

    model_config = ConfigDict(extra="forbid")

    verb: Verb
    path: list[str] = Field(min_length=1, max_length=50)
    value: Any = None


class EditOrder(_Order):
    """Values to change, all or none."""

    edits: list[Edit] = Field(min_length=1, max_length=1000)
