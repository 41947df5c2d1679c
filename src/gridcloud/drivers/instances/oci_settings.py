"""The entry of a provider in Oracle's cloud."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gridcloud.drivers.oracle import AccountSettings
from gridcloud.instances.cloud import AddressRange, CloudSettings

__all__ = ["OCISettings", "Rate"]

PRICE_LIST = "https://apexapps.oracle.com/pls/apex/cetools/api/v1/products/"


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Rate(BaseModel):
    """What a flexible shape costs per hour: its price depends on how much of it is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ocpu: Decimal = Field(ge=0, description="per OCPU and hour")
    memory: Decimal = Field(default=Decimal(0), ge=0, description="per GB of memory and hour")


class OCISettings(AccountSettings, CloudSettings):
    """What the `oci` driver is told."""

    availability_domains: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="availability domains to use, in order; * stands for anything; empty: all"
    )
    network: str = Field(
        default="",
        description="subnet or VCN to put machines in: its OCID or its name; empty: one is made, and removed with "
        "the last machine",
    )
    allow_from: Annotated[tuple[AddressRange, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="address ranges that may reach SSH on the machines, where the network is made; e.g. 192.0.2.0/24",
    )
    address_range: AddressRange = Field(
        default="10.173.0.0/16", description="private addresses of the network that is made: /16 to /30"
    )
    rates: Mapping[str, Rate] = Field(
        default_factory=dict,
        description="price per OCPU and per GB by name of a flexible shape, * stands for anything",
    )
    price_list: bool = Field(
        default=False, description="ask Oracle's public price list for what 'prices' and 'rates' do not name"
    )
    price_list_address: str = Field(default=PRICE_LIST, description="where that list is")
    currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="currency of that list; see 'price_factor'"
    )

    @field_validator("address_range")
    @classmethod
    def _check_range(cls, text: str) -> str:
        network = ipaddress.ip_network(text)
        if network.version != 4 or not 16 <= network.prefixlen <= 30:
            raise ValueError("a VCN takes IPv4 addresses, /16 to /30")
        return text

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if not self.network and not self.allow_from and not self.agent:
            raise ValueError(
                "'allow_from' is needed where no 'network' is named: the address ranges that may reach SSH on the "
                "machines, e.g. [192.0.2.0/24]"
            )
        if self.network and self.allow_from:
            raise ValueError(
                "'allow_from' has no effect in a 'network' of your own: set its security list there"
            )
        if not self.network and not self.public_address:
            raise ValueError(
                "machines without a public address need a 'network' of your own, which reaches them"
            )
        return self
