"""What may be configured of lending: which providers, to whom, how much, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.settings.budgets import Words
from gridcloud.settings.values import Duration, Size

__all__ = ["LendingSettings", "LentLimit", "LentRoom"]


class LentRoom(BaseModel):
    """An amount of computing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=0, ge=0, le=1_000_000, description="CPU cores")
    memory: Size = Field(default=0, description="memory, e.g. 64GiB")
    gpus: int = Field(default=0, ge=0, le=1_000_000, description="GPUs")


class LentLimit(BaseModel):
    """The most that is lent at one time; what is not given is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    institution: str = Field(
        default="", max_length=200, description="id of the institution that it is for; empty: each by itself"
    )
    group: str = Field(default="", max_length=200, description="group of their users that it counts")
    cpus: float | None = Field(default=None, ge=0, le=1_000_000, description="CPU cores")
    memory: Size | None = Field(default=None, description="memory, e.g. 64GiB")
    gpus: int | None = Field(default=None, ge=0, le=1_000_000, description="GPUs")
    leases: int | None = Field(default=None, ge=0, description="machines")
    time: Duration | None = Field(default=None, ge=1, description="longest time of one machine, e.g. 8h")


class LendingSettings(BaseModel):
    """Lending machines to other institutions of our communities, and giving back what is borrowed of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    providers: tuple[str, ...] = Field(
        default=(),
        description="our own providers that are lent, the first with room first; empty: nothing is lent",
    )
    trust_partners: bool = Field(
        default=False,
        description="lend also machines on which users of partners share gridcloud's own account, as those of driver "
        "local with allow_root or share_account: whoever has one can read and steer all that this gridcloud has",
    )
    policy: str = Field(
        default="True",
        max_length=2000,
        description="expression that says what is lent to whom, such as "
        "institution in friends and hours <= 24 and (favour > 0 or free > 0.3)",
    )
    names: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")], Words] = Field(
        default_factory=dict,
        description="lists of texts by the names that the policy calls them, such as friends",
    )
    limits: tuple[LentLimit, ...] = Field(
        default=(),
        max_length=200,
        description="the most that is lent at one time, each with institution, group, cpus, memory, gpus, leases, time",
    )
    capacity: LentRoom = Field(
        default=LentRoom(),
        description="cpus, memory and gpus that the lent providers have in all: what 'free' and reserve are reckoned "
        "from; none: not known",
    )
    reserve: LentRoom = Field(
        default=LentRoom(),
        description="cpus, memory and gpus of the capacity that stay free for our own users",
    )
    reclaim: bool = Field(
        default=True,
        description="take machines back when one of our own users finds no room, of the least favoured first",
    )
    longest: Duration = Field(default=86400, ge=60, description="longest time that a machine is lent for")
    ttl: Duration = Field(
        default=300,
        ge=1,
        description="time after which a machine that the borrower does not renew is ours again",
    )
    grace: Duration = Field(
        default=300, ge=1, description="time between the warning that a machine is wanted back and its end"
    )
    tolerance: Duration = Field(
        default=60,
        ge=1,
        le=60,
        description="how far clocks of institutions may differ; so long before its end a borrowed machine is left",
    )
    gpu_weight: int = Field(
        default=16, ge=0, le=1_000_000, description="core-hours that a GPU-hour counts for in favour"
    )
