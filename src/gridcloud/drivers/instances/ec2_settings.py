"""The settings of the `ec2` provider."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gridcloud.instances.cloud import AddressRange, CloudSettings

__all__ = ["EC2Settings"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class EC2Settings(CloudSettings):
    """What the `ec2` driver is told. Credentials are found as Amazon's own tools find them."""

    place: ClassVar[tuple[str, ...]] = ("region", "profile", "endpoint")

    region: str = Field(pattern=r"^[a-z0-9-]{2,40}$", description="region, e.g. eu-north-1")
    profile: str = Field(
        default="", description="profile of ~/.aws/config and ~/.aws/credentials; empty: the default chain"
    )
    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="URL of the API instead of Amazon's own, for clouds that speak it",
    )
    image_owners: Words = Field(
        default=("self", "amazon"),
        min_length=1,
        description="whose images a name or pattern may mean: self, amazon, aws-marketplace, or account numbers",
    )
    architecture: Literal["x86_64", "arm64"] = Field(
        default="x86_64", description="processors of the shapes and images to take"
    )
    subnets: Words = Field(
        default=(),
        description="subnets to put machines in, one for each zone; empty: those of 'vpc', else the default ones",
    )
    vpc: str = Field(
        default="", description="VPC whose subnets may be taken; empty: the account's default one"
    )
    security_groups: Words = Field(
        default=(),
        description="ids of security groups; empty: one is made, and removed with the last machine",
    )
    allow_from: Annotated[tuple[AddressRange, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="address ranges that may reach SSH on the machines, where the group is made; e.g. 192.0.2.0/24",
    )
    key_pair: str = Field(
        default="", description="key pair of the account to let in too, for emergencies; none by default"
    )
    instance_profile: str = Field(
        default="", description="IAM instance profile of the machines: whoever is on one may use its rights"
    )
    price_list: bool = Field(
        default=True,
        description="ask Amazon's price list for what 'prices' does not name (pricing:GetProducts)",
    )

    @model_validator(mode="after")
    def _check_firewall(self) -> Self:
        if not self.security_groups and not self.allow_from and not self.agent:
            raise ValueError(
                "allow_from: say from which addresses machines may be reached by SSH, e.g. 192.0.2.0/24, name "
                "security_groups of your own, or have an 'agent' dial from there"
            )
        return self
