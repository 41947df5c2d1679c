"""Where members may send us: the addresses in their records are theirs to write, and the network is ours.

A name is resolved once, by the connection that is made; what is checked is the address that the socket is about to
connect to, so that no second answer of a name server comes between.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

import aiohttp
from yarl import URL

from gridcloud.agents.outward import kept_alive
from gridcloud.settings.grid import GridSettings

__all__ = ["Destinations"]

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FORBIDDEN = (
    "0.0.0.0/8",  # this computer
    "127.0.0.0/8",
    "169.254.0.0/16",  # this link, and the metadata of most clouds with their credentials
    "192.0.0.0/24",
    "100.100.100.200/32",  # the metadata of Alibaba's cloud
    "168.63.129.16/32",  # the host of Azure's machines
    "224.0.0.0/3",  # to many, and to nobody
    "::/127",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::/32",  # the metadata of EC2
    "fd20:ce::254/128",  # that of Google's cloud
)
"""Networks whose addresses mean something else on each computer: no member is there, but services of ours are."""
_WITHIN = ipaddress.ip_network("64:ff9b::/96")
"""NAT64 (RFC 6052): an IPv4 address stands in the last 32 bits."""


class Destinations:
    """Which addresses are called; the settings say what is forbidden besides `FORBIDDEN`, and what is allowed of it."""

    def __init__(self, settings: Callable[[], GridSettings]) -> None:
        self._settings = settings

    def open(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Return the socket for an address that is about to be connected to. Raises PermissionError."""
        self.check(str(address[4][0]))
        return kept_alive(address)

    def check_named(self, url: str) -> None:
        """Return when a proxy may be asked for an address: names are its matter, numbers, however written, ours.

        Raises PermissionError.
        """
        try:
            host = URL(url).host or ""
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, ValueError):
            return
        for one in found:
            self.check(str(one[4][0]))

    def check(self, address: str) -> None:
        """Return when an address may be called. Raises PermissionError."""
        settings = self._settings()
        for one in _meanings(ipaddress.ip_address(address.partition("%")[0])):
            network = _first(one, (*settings.forbidden_addresses, *FORBIDDEN))
            # Who tells others such an address as its own tries the grid where it means the same to all.
            ours = any(_first(our, [network]) for our in _numbers(settings.addresses)) if network else False
            if network and not ours and not _first(one, settings.allowed_addresses):
                raise PermissionError(
                    errno.EACCES,
                    f"{one} is in {network}, where no member is called unless grid.allowed_addresses names it",
                )


def _meanings(address: IP) -> list[IP]:
    """Return an address, and those of IPv4 that gateways and systems take it for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour]
    if address in _WITHIN or (address in ipaddress.ip_network("::/96") and int(address) > 1):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    return [address, *(one for one in inner if one is not None)]


def _numbers(urls: Iterable[str]) -> list[IP]:
    """Return those of the hosts of some addresses that are written as numbers."""
    found: list[IP] = []
    for url in urls:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(URL(url).host or ""))
    return found


def _first(address: IP, networks: Iterable[str]) -> str:
    """Return the first network that an address is in, empty for none."""
    for text in networks:
        network: Network = ipaddress.ip_network(text)
        if address.version == network.version and address in network:
            return text
    return ""
