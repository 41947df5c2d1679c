"""What the API says of machines that dial out, and takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.agents.model import AGENT_NAME, Caps, Labels, Report, State
from gridcloud.instances.model import Text
from gridcloud.settings import Duration

__all__ = ["Drain", "Invitation", "InvitationWish", "JoinWish", "Labelling", "Machine", "Machines"]


class InvitationWish(BaseModel):
    """A wish for a machine to join."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=AGENT_NAME, description="what the machine is to be called")
    time: Duration = Field(
        default=86400, ge=1, le=30 * 86400, description="how long the token is good, e.g. 1d"
    )
    caps: Caps = Field(default=Caps(), description="how much of the machine is used at most")
    labels: Labels = Field(default_factory=dict, description="what the machine is")
    addresses: tuple[Text, ...] = Field(
        default=(), max_length=32, description="networks (CIDR) it may join from; any when empty"
    )


class JoinWish(BaseModel):
    """A machine's request to join: what it signed with its token's key and with its own."""

    model_config = ConfigDict(extra="forbid")

    invitation: str = Field(pattern=r"^v-[0-9a-z]{19}$")
    public_key: str = Field(max_length=2000)
    token_proof: str = Field(pattern=r"^[0-9a-f]{128}$")
    key_proof: str = Field(pattern=r"^[0-9a-f]{2,1000}$")


class Labelling(BaseModel):
    """Labels to set; null takes one away."""

    model_config = ConfigDict(extra="forbid")

    labels: Mapping[Text, Text | None]


class Drain(BaseModel):
    """Whether a machine is given nothing new."""

    model_config = ConfigDict(extra="forbid")

    draining: bool = True


class Machine(BaseModel):
    """A machine as its gridcloud knows it."""

    name: str
    state: State
    labels: Labels = {}
    caps: Caps = Caps()
    fingerprint: str = Field(default="", description="of its host key, as ssh-keygen -l prints it")
    expires: datetime | None = None
    addresses: tuple[str, ...] = ()
    joined: datetime | None = None
    joined_from: str = ""
    connected: bool = False
    since: datetime | None = None
    why_not: str = Field(default="", description="why it is not connected")
    last_seen: datetime | None = None
    last_from: str = ""
    report: Report | None = None


class Machines(BaseModel):
    """Machines, oldest first."""

    machines: list[Machine]


class Invitation(BaseModel):
    """An invitation just made, with the token that is shown this once."""

    machine: Machine
    token: str = Field(repr=False)
