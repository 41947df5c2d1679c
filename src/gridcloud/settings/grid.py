"""What may be configured of the grid: where other institutions reach us."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["DiscoverySettings", "GridSettings"]

Address = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$", max_length=256)]
Institution = Annotated[str, Field(pattern=r"^[0-9a-hjkmnp-tv-z]{32}$")]


def _check_place(text: str) -> str:
    host, colon, port = text.rpartition(":")
    fits = re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]", host) and re.fullmatch(r"[0-9]{1,5}", port)
    if text and not (colon and fits and int(port) <= 65535):
        raise ValueError("is HOST:PORT, such as 0.0.0.0:8444, with a port up to 65535")
    return text


def _check_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError("is a network such as 10.0.0.0/8 or 2001:db8::/32, or one address") from error


Network = Annotated[str, AfterValidator(_check_network)]


class DiscoverySettings(BaseModel):
    """A plug-in that finds members' records besides gossip; off unless one is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str = Field(default="", max_length=64, description="the plug-in, such as ipv8; empty: none")
    listen: Annotated[str, AfterValidator(_check_place)] = Field(
        default="", description="HOST:PORT on which it listens, for ipv8 of UDP"
    )
    contacts: tuple[Annotated[str, Field(min_length=1), AfterValidator(_check_place)], ...] = Field(
        default=(), max_length=32, description="HOST:PORT of members to begin at, where they listen for it"
    )


class GridSettings(BaseModel):
    """Taking part in the grid of institutions, once `gridcloud grid init` was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[str, AfterValidator(_check_place)] = Field(
        default="",
        description="HOST:PORT on which other institutions are let in, read at the start; empty: no port is opened",
    )
    addresses: tuple[Address, ...] = Field(
        default=(),
        max_length=8,
        description="https://HOST:PORT under which they reach it; empty: through relays only",
    )
    relays: tuple[Institution, ...] = Field(
        default=(),
        max_length=8,
        description="ids of members to be reached through; empty: those that offer it, where there is no address",
    )
    relays_others: bool = Field(
        default=False, description="carry what is for members that cannot be reached, who come to our address"
    )
    location: str = Field(
        default="", max_length=200, description="where the institution is, in any words; members see it"
    )

    forbidden_addresses: tuple[Network, ...] = Field(
        default=(),
        max_length=256,
        description="networks of ours in which no member is called, whatever its record says; always besides: this"
        " computer, its links, and what clouds tell their machines (127.0.0.0/8, 169.254.0.0/16, ::1, fe80::/10, …)",
    )
    allowed_addresses: tuple[Network, ...] = Field(
        default=(),
        max_length=256,
        description="networks in which members are called though they are forbidden; so they are in networks of"
        " our own `addresses`",
    )

    discovery: DiscoverySettings = Field(
        default_factory=DiscoverySettings,
        description="another way to find members, beside what members tell each other",
    )

    @model_validator(mode="after")
    def _is_reached_where_it_listens(self) -> Self:
        if self.addresses and not self.listen:
            raise ValueError("addresses are told to others, and nothing is listened on: set listen too")
        if self.relays_others and not self.addresses:
            raise ValueError("relays_others needs listen and addresses, which those who are relayed come to")
        return self
