"""What a session is: a program that listens, the instance it runs on, and the tunnels between it and us."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gridcloud.connections.model import Endpoint, Port
from gridcloud.connections.programs import Program
from gridcloud.instances.model import Folder, Reason, Request

__all__ = ["FINAL", "Plan", "Record", "Session", "State"]

FILE_BYTES = 96 << 10
"""Names and texts of a plan's files, which travel as arguments of one command."""


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Record):
    """The program of a session. Secret values of its environment are given beside it and never part of it.

    ``listening`` and ``environment`` may hold ``{port}`` and ``{socket}`` (where it is to listen) and the names of
    ``exposed`` (``host:port`` there that leads to the endpoint here), ``environment`` also ``{private}`` (the
    socket's folder, for further ones; a variable with it is left out where it is to listen on a port), and
    ``reading`` and ``environment`` may hold ``{files}`` (the folder there that has ``files``); nothing else is replaced
    in them.
    """

    words: tuple[str, ...] = Field(min_length=1, description="the program and its arguments, taken literally")
    listening: tuple[str, ...] = Field(
        default=(),
        description="arguments added when it is to listen on a Unix socket, as on machines of others",
    )
    files: dict[str, str] = Field(
        default_factory=dict,
        description="texts by relative path, 96 KiB in all, to lie beside the program; nothing secret",
    )
    reading: tuple[str, ...] = Field(default=(), description="arguments added when it is given files")
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment that depends on the tunnels"
    )
    full_home: dict[str, str] = Field(
        default_factory=dict, description="environment more where nothing can be saved in the home"
    )
    exposed: dict[str, Port] = Field(
        default_factory=dict, description="endpoints here that the program must reach"
    )
    probe: str = Field(
        default="/", description="path of an HTTP request that the program answers once it is up"
    )
    directory: str = Field(
        default="", description="working directory; empty: the owner's home on the machine"
    )

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: dict[str, str]) -> dict[str, str]:
        for path in files:
            if not re.fullmatch(r"[A-Za-z0-9_@][A-Za-z0-9_.@-]*(/[A-Za-z0-9_@][A-Za-z0-9_.@-]*)*", path):
                raise ValueError(f"{path!r} is no plain relative path")
        size = sum(len(path.encode()) + len(text.encode()) for path, text in files.items())
        if size > FILE_BYTES or any("\0" in text for text in files.values()):
            raise ValueError(f"the files are no texts of {FILE_BYTES} bytes in all at most")
        return files


class State(StrEnum):
    """Where a session is in its life."""

    PLACING = "placing"
    """Its instance is being obtained."""
    LAUNCHING = "launching"
    """The instance is ready; tunnels and program are being started."""
    RUNNING = "running"
    """It answers."""
    ENDING = "ending"
    """Program, tunnels and instance are being ended, as was asked."""
    FAILING = "failing"
    """The same, for something went wrong."""
    ENDED = "ended"
    """Nothing is left of it, as was asked."""
    FAILED = "failed"
    """Nothing is left of it, and it was not asked to end."""


FINAL = frozenset({State.ENDED, State.FAILED})
"""States that nothing leaves."""


class Session(Record):
    """A program on an instance, reached through ``endpoint`` on this computer."""

    id: str
    owner: str
    name: str = ""
    profile: str = Field(default="", description="what of the hub's offers it was started from")
    request: Request
    plan: Plan
    configure: tuple[dict[str, Any], ...] = ()
    course: str = Field(
        default="", description="the course that it is for: its seats may be taken, its teachers may end it"
    )
    folders: tuple[Folder, ...] = Field(default=(), description="folders of this computer that it is to have")
    instance_id: str
    longest: int = Field(
        default=0, description="seconds that it may live in all, extended; 0: as long as anybody's"
    )
    former: str = Field(
        default="", description="the instance before, whose machine was taken back; empty: none was"
    )
    state: State = State.PLACING
    reason: Reason = Reason.NONE
    detail: str = ""
    error: str = Field(default="", description="kind of the error that ended it; empty: none did")
    endpoint: Port | None = Field(default=None, description="where it is reached on this computer")
    remote: Endpoint | None = Field(default=None, description="where it listens on the instance")
    exposed: dict[str, Port] = Field(
        default_factory=dict, description="where the exposed endpoints listen there"
    )
    program: Program | None = None
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    log: str = Field(default="", description="the program's last words, when it ended by itself")
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0

    def body(self) -> dict[str, Any]:
        """Return the record's JSON form."""
        return self.model_dump(mode="json", exclude={"version"})
