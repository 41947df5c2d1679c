"""What the API says of the SSH authority."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AuthorityKey", "AuthorityState", "RotationOrder"]


class AuthorityKey(BaseModel):
    """A public key of the authority."""

    line: str = Field(description="the public key line")
    fingerprint: str


class AuthorityState(BaseModel):
    """Whose certificates machines are to believe."""

    present: AuthorityKey
    next: AuthorityKey | None = Field(default=None, description="what the next rotation goes over to")
    prepared: datetime | None = Field(default=None, description="since when what is made trusts that too")
    earlier: list[AuthorityKey] = Field(
        default_factory=list,
        description="rotated out; machines that dial in follow from them to the present one",
    )
    left_behind: list[str] = Field(
        default_factory=list,
        description="ids of instances that are reached by SSH and trust the present one alone: a rotation shuts us out",
    )


class RotationOrder(BaseModel):
    """To go over to the next key."""

    model_config = ConfigDict(extra="forbid")

    now: bool = Field(
        default=False, description="also where instances are left behind, or nothing was prepared"
    )
