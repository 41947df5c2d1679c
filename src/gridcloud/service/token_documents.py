"""What the API says of tokens."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.instances.model import Text
from gridcloud.settings import Duration

__all__ = ["IssuedToken", "TokenInfo", "TokenWish", "Tokens"]


class TokenWish(BaseModel):
    """A wish for a token."""

    model_config = ConfigDict(extra="forbid")

    user: Text | None = Field(default=None, description="for whom; administrators only")
    note: Text = Field(default="", description="what it is for")
    time: Duration = Field(default=0, description="how long it is good, e.g. 30d; 0: for ever")
    admin: bool = Field(default=False, description="make its user an administrator; administrators only")


class TokenInfo(BaseModel):
    """A token without its secret."""

    id: str
    user: str
    note: str = ""
    created: datetime
    expires: datetime | None = None


class IssuedToken(BaseModel):
    """A token just made, with the text that is shown this once."""

    token: TokenInfo
    secret: str = Field(repr=False)


class Tokens(BaseModel):
    """Tokens, oldest first."""

    tokens: list[TokenInfo]
