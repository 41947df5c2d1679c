"""What a stack is: named members, each the wish for one instance, and pools, which are named sets of members."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gridcloud.instances.model import Request

__all__ = ["FINAL", "MOST", "Definition", "Member", "Record", "Stack", "StackName", "State", "Wish"]

MOST = 1000
"""Members of one stack."""

StackName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""The name of a stack, a member or a pool."""


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Wish(Record):
    """The wish for one member's instance."""

    request: Request = Field(default_factory=Request)
    configure: tuple[dict[str, Any], ...] = Field(default=(), description="configurers to run, in order")


class Definition(Record):
    """What a stack is to be: its members by name, and its pools."""

    instances: dict[StackName, Wish] = Field(default_factory=dict, max_length=MOST)
    pools: dict[StackName, tuple[StackName, ...]] = Field(default_factory=dict, max_length=MOST)

    @model_validator(mode="after")
    def _check_pools(self) -> Definition:
        for pool, names in self.pools.items():
            strangers = sorted(set(names) - self.instances.keys())
            if strangers:
                raise ValueError(f"pools.{pool}: there is no instance {', '.join(strangers)}")
            if len(set(names)) < len(names):
                raise ValueError(f"pools.{pool}: an instance is there twice")
        return self


class Member(Record):
    """One member as it is: what was asked for, the instance it has, and why it has none."""

    wish: Wish
    instance_id: str = ""
    problem: str = Field(
        default="", description="why the last attempt did not succeed, or how the instance ended"
    )


class State(StrEnum):
    """Where a stack is in its life."""

    DEFINED = "defined"
    """It is written down; no instance of it lives."""
    DEPLOYING = "deploying"
    """Its instances are being obtained, all at once."""
    DEPLOYED = "deployed"
    """Every member's instance is ready."""
    PARTIAL = "partial"
    """Some members have no instance: they failed, or ended later."""
    CLEARING = "clearing"
    """What this deployment began is being ended, since not all of it could be had."""
    DESTROYING = "destroying"
    """All its instances are being ended, as was asked."""
    GONE = "gone"
    """Nothing is left of it."""


FINAL = frozenset({State.GONE})
"""States that nothing leaves."""


class Stack(Record):
    """Several instances as one thing."""

    id: str
    owner: str
    name: str
    state: State = State.DEFINED
    members: dict[str, Member] = Field(default_factory=dict)
    pools: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    fresh: tuple[str, ...] = Field(default=(), description="members that the present deployment began")
    leaving: tuple[str, ...] = Field(
        default=(), description="instances of members that were taken out or changed"
    )
    keep_going: bool = Field(default=False, description="keep what could be had when some cannot")
    detail: str = Field(default="", description="what happened, in words")
    created: datetime
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0

    def definition(self) -> Definition:
        """Return what it is to be."""
        wishes = {name: member.wish for name, member in self.members.items()}
        return Definition(instances=wishes, pools=self.pools)
