"""What a share is: a folder behind a link, with rights and limits."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["FINAL", "Door", "Limits", "Record", "Refusal", "Rights", "Share", "State"]


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rights(StrEnum):
    """What whoever has the link may do."""

    READ = "read"
    """List, read."""
    READ_WRITE = "read-write"
    """All: list, read, write, remove, rename."""
    WRITE = "write"
    """A drop box: add files and folders. Nothing is listed or read back, and nothing that is there is replaced."""


class Door(StrEnum):
    """The protocol somebody comes by."""

    HTTPS = "https"
    WEBDAV = "webdav"
    SFTP = "sftp"


class Refusal(StrEnum):
    """Why somebody with a link is not let in, or not further: the columns of the table of limits."""

    UNKNOWN = "unknown"
    """There is no such link."""
    REVOKED = "revoked"
    """Its owner took it back."""
    EXPIRED = "expired"
    """Its time is over."""
    NETWORK = "network"
    """It does not work from this address."""
    PASSWORD = "password"  # noqa: S105 - the name of a limit
    """Its password is missing or wrong."""
    KEY = "key"
    """It is for the holders of certain SSH keys."""
    CODE = "code"
    """The code of the second factor is missing, wrong, or was used."""
    USES = "uses"
    """It was used as often as it may be."""
    BYTES = "bytes"
    """It moved as much as it may."""
    RIGHTS = "rights"
    """It does not give this right."""
    PATTERN = "pattern"
    """It is not for files of this name."""
    BANNED = "banned"
    """Too many guesses came from there."""


def _check_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError("is a network such as 10.0.0.0/8 or 2001:db8::/32, or one address") from error


Network = Annotated[str, AfterValidator(_check_network)]
Pattern = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00/]+$")]


class Limits(Record):
    """What a link is held to besides its rights; all that is set holds, through every door."""

    expires: AwareDatetime | None = Field(default=None, description="when it stops working")
    uses: int = Field(default=0, ge=0, description="files that may be read or written in all; 0: any number")
    bytes: int = Field(default=0, ge=0, le=2**60, description="bytes that may be moved in all; 0: any number")
    networks: tuple[Network, ...] = Field(
        default=(), max_length=100, description="addresses it works from; none: all"
    )
    patterns: tuple[Pattern, ...] = Field(
        default=(), max_length=100, description="names of files, such as *.csv; none: all"
    )


class State(StrEnum):
    """Where a share is in its life."""

    ACTIVE = "active"
    """Its link works, as far as its limits let it."""
    REVOKED = "revoked"
    """Its link does not work any more, ever."""


FINAL = frozenset({State.REVOKED})


class Share(Record):
    """One link to one folder. Neither its secret nor a password is in it."""

    id: str
    """A keyed digest of the secret: neither tells the other."""
    owner: str
    keeper: str = ""
    state: State = State.ACTIVE
    version: int = 0
    created: datetime
    name: str = ""
    storage: str = ""
    """An entry of ``shares.storages``; empty: the folder is an absolute path of this computer."""
    folder: str
    """Where in the storage it begins."""
    rights: Rights = Rights.READ
    limits: Limits = Field(default_factory=Limits)
    password: str = Field(default="", repr=False)
    """The password's hash (argon2id), or empty."""
    keys: tuple[str, ...] = ()
    """SSH public keys that open it."""
    code: bool = False
    """Whether a code of a second factor (TOTP) is asked for, too."""
    used: int = 0
    moved: int = 0
    """Bytes."""
