"""What the API says and takes of stacks, as typed documents: shared by the service and its clients."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.instances.model import Text
from gridcloud.stacks.model import Definition, Stack, StackName

__all__ = ["Deployment", "StackChange", "StackWish", "Stacks"]


class StackWish(BaseModel):
    """A stack to be written down."""

    model_config = ConfigDict(extra="forbid")

    name: StackName
    definition: Definition = Field(default_factory=Definition)
    owner: Text | None = Field(default=None, description="for whom; administrators only")


class StackChange(BaseModel):
    """What is to change of a stack."""

    model_config = ConfigDict(extra="forbid")

    name: StackName | None = None
    definition: Definition | None = None
    version: int | None = Field(
        default=None, description="refuse (Conflict) when the stack is of another one by now"
    )


class Deployment(BaseModel):
    """How a stack is deployed."""

    model_config = ConfigDict(extra="forbid")

    keep_going: bool = Field(default=False, description="keep what could be had when some cannot")


class Stacks(BaseModel):
    """Stacks, oldest first."""

    stacks: list[Stack]
