"""Users and tokens: frozen records."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Record", "Token", "User"]


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class User(Record):
    """Somebody known to gridcloud. The name is any text of up to 200 characters, never to be trusted elsewhere."""

    name: str = Field(min_length=1, max_length=200)
    admin: bool = False
    groups: tuple[str, ...] = ()


class Token(Record):
    """A secret that stands for a user, without the secret."""

    id: str
    user: str
    hash: str = Field(description="SHA-256 of the secret, in hexadecimal", repr=False)
    note: str = Field(default="", description="what it is for, in its owner's words")
    scopes: tuple[str, ...] = Field(default=(), description="what it allows; empty: all that its user may do")
    created: datetime
    expires: datetime | None = None

    def allows(self, scope: str) -> bool:
        """Whether it may be used for this."""
        return not self.scopes or scope in self.scopes
