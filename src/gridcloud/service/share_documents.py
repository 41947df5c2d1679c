"""What the API says of shares."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.data.model import Limits, Rights, State
from gridcloud.instances.model import Text

__all__ = [
    "FileWish",
    "MadeShare",
    "ShareChange",
    "ShareInfo",
    "ShareLine",
    "ShareLog",
    "ShareWish",
    "SharesFound",
    "SignedFile",
]


class ShareWish(BaseModel):
    """A wish for a share."""

    model_config = ConfigDict(extra="forbid")

    folder: Text = Field(min_length=1, description="the folder: in the storage, or an absolute path")
    storage: Text = Field(default="", description="a storage; empty: a path of the service's computer")
    owner: Text | None = Field(default=None, description="for whom; administrators only")
    name: Text = Field(default="", description="what people see it called")
    rights: Rights = Field(default=Rights.READ, description="what whoever has the link may do")
    limits: Limits = Field(default_factory=Limits)
    password: str = Field(default="", max_length=1024, repr=False, description="empty: none")
    keys: tuple[str, ...] = Field(default=(), max_length=100, description="SSH public keys that open it")
    code: bool = Field(default=False, description="ask for the code of a second factor, too")
    length: int = Field(default=22, description="characters of the link's secret, 10 to 64")


class ShareChange(BaseModel):
    """A change of a share; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Text | None = None
    rights: Rights | None = None
    limits: Limits | None = None
    password: str | None = Field(default=None, max_length=1024, repr=False, description="empty: none")
    keys: tuple[str, ...] | None = Field(default=None, max_length=100)


class ShareInfo(BaseModel):
    """A share without its secrets."""

    id: str
    owner: str
    state: State
    created: datetime
    name: str
    storage: str
    folder: str
    rights: Rights
    limits: Limits
    password: bool
    keys: tuple[str, ...]
    code: bool
    used: int
    moved: int


class MadeShare(BaseModel):
    """A share with what only its owner is told; empty for others."""

    share: ShareInfo
    secret: str = Field(default="", repr=False)
    url: str = Field(default="", repr=False, description="the link; empty while no door is open")
    sftp: str = Field(default="", repr=False, description="the same for SFTP")
    code: str = Field(default="", repr=False, description="otpauth:// URI of the second factor")


class FileWish(BaseModel):
    """A wish for a URL of one file."""

    model_config = ConfigDict(extra="forbid")

    path: Text = Field(min_length=1, description="the file, by its path in the share")
    seconds: float = Field(gt=0, le=10 * 365 * 86400, description="how long the URL works")


class SignedFile(BaseModel):
    """A URL by which one file can be read by whoever has it."""

    path: str = Field(repr=False, description="the URL's path")
    url: str = Field(default="", repr=False, description="the URL; empty while no door is open")
    expires: datetime


class SharesFound(BaseModel):
    """Shares, oldest first."""

    shares: list[ShareInfo]


class ShareLine(BaseModel):
    """One line of the log."""

    at: datetime
    type: str
    message: str
    data: dict[str, Any]


class ShareLog(BaseModel):
    """What was done with a share, oldest first."""

    lines: list[ShareLine]
