"""The settings of the `openstack` provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridcloud.instances.cloud import AddressRange, CloudSettings
from gridcloud.settings import Size

__all__ = ["OpenStackGPU", "OpenStackSettings"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class OpenStackGPU(BaseModel):
    """What GPUs a flavor has, where its own words do not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="", description="model, e.g. NVIDIA A100")
    count: int = Field(default=1, ge=0, description="how many; 0: none")
    memory: Size = Field(default=0, description="memory of each, e.g. 80GiB; 0: not known")


class OpenStackSettings(CloudSettings):
    """Settings of one project in one region of an OpenStack cloud."""

    place: ClassVar[tuple[str, ...]] = ("cloud", "clouds_file", "region")

    cloud: str = Field(
        min_length=1,
        description="name of the cloud in clouds.yaml, which holds the credentials; envvars: the OS_… variables",
    )
    clouds_file: Path | None = Field(
        default=None,
        description="the clouds.yaml; when not given, the one in this folder, ~/.config/openstack or /etc/openstack",
    )
    region: str = Field(default="", description="region; the one of clouds.yaml when not given")
    zones: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="availability zones to make machines in, tried in this order; the cloud chooses when not given",
    )
    network: str = Field(
        default="",
        description="name or id of the network; the project's only one, else the only shared one, when not given",
    )
    external_network: str = Field(
        default="",
        description="name or id of the network that floating addresses come from; the one behind the router of "
        "'network' when not given",
    )
    allow_from: Annotated[tuple[AddressRange, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="ranges of addresses that may reach the SSH server of machines, in a security group that comes "
        "with the first of them and goes with the last; e.g. 192.0.2.0/24",
    )
    security_groups: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="security groups of your own instead, by name or id"
    )
    volume: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="boot from a volume that goes with the machine: auto does so where the flavor's disk is too small",
    )
    volume_type: str = Field(default="", description="type of these volumes; the cloud's own when not given")
    config_drive: bool = Field(
        default=False,
        description="hand over the first boot's words on a drive, for clouds without a metadata service",
    )
    gpus: Mapping[str, OpenStackGPU] = Field(
        default_factory=dict,
        description="GPUs by name of flavor, * stands for anything; before what the flavors say of themselves",
    )

    @model_validator(mode="after")
    def _check_doors(self) -> Self:
        if not self.allow_from and not self.security_groups and not self.agent:
            raise ValueError(
                "allow_from: say from which addresses machines may be reached by SSH, e.g. 192.0.2.0/24, name "
                "'security_groups' of your own, or have an 'agent' dial from there"
            )
        if self.allow_from and self.security_groups:
            raise ValueError(
                "allow_from has no effect on 'security_groups' of your own: leave one of them out"
            )
        return self
