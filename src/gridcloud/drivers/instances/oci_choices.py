"""What Oracle's cloud has to choose from, for the `oci` driver: asked when needed, believed for some minutes."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from gridcloud.drivers.instances.oci_settings import OCISettings, Rate
from gridcloud.drivers.instances.oci_shapes import limit_shortage, read_image, read_price_list, takes_of_limit
from gridcloud.drivers.oracle import Wire, find_compartment, gather
from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    Throttled,
    Unreachable,
)
from gridcloud.instances import choosing
from gridcloud.instances.choosing import Image, choose_network
from gridcloud.instances.model import Offer, Step

__all__ = ["Choices", "Place"]

MINUTES = 600.0
"""Seconds for which shapes, images and networks are believed."""
DAY = 86400.0
UNKNOWN = (NotFound, Forbidden, InvalidRequest, Throttled)
"""What a question for limits or free hosts may meet with: the answer is not known then, and offers go without it."""


class Place:
    """A subnet that machines can be put in, and how it was chosen."""

    def __init__(self, domain: str, subnet: str, step: Step) -> None:
        self.domain = domain
        self.subnet = subnet
        """Empty: the network is made with the first machine."""
        self.step = step


class Choices:
    """What one provider has to choose from."""

    def __init__(self, wire: Wire, settings: OCISettings, provider: str) -> None:
        self._wire = wire
        self._settings = settings
        self._provider = provider
        self._known: dict[str, tuple[float, Any]] = {}

    def forget(self) -> None:
        """Ask for everything anew: something of it is not there any more."""
        self._known.clear()

    async def compartment(self) -> str:
        """Return the OCID of the compartment. Raises InvalidSettings when it is not there or not the only one."""

        async def find() -> str:
            return await find_compartment(self._wire, self._settings.compartment, self._provider)

        return cast(str, await self._once("compartment", MINUTES, find))

    async def domains(self) -> list[str]:
        """Return the availability domains to use, in order. Raises InvalidSettings."""
        there = await self._once("domains", DAY, self._list_domains)
        patterns = self._settings.availability_domains
        if not patterns:
            return list(there)
        found = [name for pattern in patterns for name in there if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InvalidSettings(
                f"{self._provider}: no availability domain is called {', '.join(patterns)}.",
                remedy=f"There are: {', '.join(there)}.",
            )
        return list(dict.fromkeys(found))

    async def shapes(self) -> dict[str, tuple[Any, list[str]]]:
        """Return Oracle's shapes by name, each with the availability domains that have it."""
        return cast(dict[str, tuple[Any, list[str]]], await self._once("shapes", MINUTES, self._list_shapes))

    async def images(self, shape: str = "") -> list[Image]:
        """Return the images there are, or those that run on a shape."""

        async def ask() -> list[Image]:
            named = {"shape": shape} if shape else {}
            compartment = await self.compartment()
            found = await self._wire.pages(
                "compute", "list_images", compartment, lifecycle_state="AVAILABLE", **named
            )
            return [read_image(one, self._settings) for one in found]

        return cast(list[Image], await self._once(f"images of {shape}", MINUTES, ask))

    async def places(self, domains: Sequence[str]) -> list[Place]:
        """Return where machines can be put: one place for each availability domain that has a subnet to use."""
        if not self._settings.network:
            step = Step(
                step="network",
                chosen="a network of our own",
                why="none is named: made with the first machine",
            )
            return [Place(domain, "", step) for domain in domains]
        subnets = await self.networks()
        found, error = [], None
        for domain in domains:
            try:
                chosen, step = choose_network(subnets, subnets[0].name if len(subnets) == 1 else "", domain)
            except GridcloudError as why:
                error = why
                continue
            found.append(Place(domain, chosen.id, step))
        if not found and error is not None:
            raise error
        return found

    async def networks(self) -> list[choosing.Network]:
        """Return the subnets that the entry's 'network' names. Raises InvalidSettings when there are none."""
        return cast(list[choosing.Network], await self._once("networks", MINUTES, self._list_networks))

    async def all_networks(self) -> list[tuple[str, str, str]]:
        """Return id, name and address range of all subnets of the compartment."""
        found = await self._wire.pages("network", "list_subnets", await self.compartment())
        return [(one.id, one.display_name or "", one.cidr_block or "") for one in found]

    async def price_list(self) -> tuple[Mapping[str, Rate], Mapping[str, Decimal]]:
        """Return rates and prices of Oracle's public list; nothing where it is not to be asked, or does not answer."""
        if not self._settings.price_list:
            return {}, {}
        try:
            return cast(
                tuple[Mapping[str, Rate], Mapping[str, Decimal]],
                await self._once("prices", DAY, self.ask_price_list),
            )
        except Unreachable:
            return {}, {}

    async def ask_price_list(self) -> tuple[Mapping[str, Rate], Mapping[str, Decimal]]:
        """Return the rates and prices of Oracle's public list. Raises Unreachable."""
        address = f"{self._settings.price_list_address}?currencyCode={self._settings.currency}"

        def ask() -> Any:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - from the configuration
                return json.load(answer)

        try:
            return read_price_list(await asyncio.to_thread(ask), self._settings.currency)
        except (OSError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise Unreachable(f"{self._provider}: Oracle's price list cannot be read: {error}") from error

    async def shortages(self, offers: Sequence[Offer]) -> list[str]:
        """Return for each offer why it cannot be had now: a limit that is used up, or hosts that are full.

        Who may not ask for either is told nothing by it, and finds out by asking for the machine.
        """
        tenancy, shapes = await self._wire.tenancy(), await self.shapes()
        wanted = {
            (limit, offer.location)
            for offer in offers
            for limit in shapes[offer.choice["shape"]][0].quota_names or ()
        }
        left = dict(zip(wanted, await gather(*(self._left(tenancy, *one) for one in wanted)), strict=True))
        domains = sorted({offer.location for offer in offers})
        full = await gather(
            *(self._full(tenancy, one, [o for o in offers if o.location == one]) for one in domains)
        )
        by_domain = dict(zip(domains, full, strict=True))
        found = []
        for offer in offers:
            limits = shapes[offer.choice["shape"]][0].quota_names or ()
            words = [
                limit_shortage(limit, takes_of_limit(limit, offer.choice, offer.shape), *figures)
                for limit in limits
                if (figures := left[limit, offer.location]) is not None
            ]
            words.append(by_domain[offer.location].get(offer.choice["shape"], ""))
            found.append("; ".join(word for word in words if word))
        return found

    async def limits(self, domain: str, shape: str) -> list[str]:
        """Return in words what the service limits leave for a shape in an availability domain."""
        tenancy = await self._wire.tenancy()
        names = (await self.shapes())[shape][0].quota_names or ()
        figures = await gather(*(self._left(tenancy, name, domain) for name in names))
        return [
            f"{name}: {left[0]:g} of {sum(left):g} left in {domain}"
            for name, left in zip(names, figures, strict=True)
            if left is not None
        ]

    async def _left(self, tenancy: str, limit: str, domain: str) -> tuple[float, float] | None:
        """Return what a limit leaves, and what is used; None: not known."""
        try:
            answer = await self._wire.call(
                "limits", "get_resource_availability", "compute", limit, tenancy, availability_domain=domain
            )
        except UNKNOWN:
            return None
        return (answer.available, answer.used or 0) if answer.available is not None else None

    async def _full(self, tenancy: str, domain: str, offers: Sequence[Offer]) -> dict[str, str]:
        """Return the shapes that an availability domain has no hosts left for, each with the words for it."""
        from oci.core import models

        sizes = {offer.choice["shape"]: offer.choice for offer in offers}
        asked = [
            models.CreateCapacityReportShapeAvailabilityDetails(
                instance_shape=name,
                instance_shape_config=models.CapacityReportInstanceShapeConfig(
                    ocpus=choice["ocpus"], memory_in_gbs=choice["memory"]
                )
                if "ocpus" in choice
                else None,
            )
            for name, choice in sizes.items()
        ]
        details = models.CreateComputeCapacityReportDetails(
            compartment_id=tenancy, availability_domain=domain, shape_availabilities=asked
        )
        try:
            report = await self._wire.call("compute", "create_compute_capacity_report", details)
        except UNKNOWN:
            return {}
        return {
            one.instance_shape: f"{domain} has no hosts left for {one.instance_shape}"
            for one in report.shape_availabilities
            if one.availability_status == "OUT_OF_HOST_CAPACITY"
        }

    async def _list_domains(self) -> list[str]:
        compartment = await self.compartment()
        found = await self._wire.pages("identity", "list_availability_domains", compartment)
        return [one.name for one in found]

    async def _list_shapes(self) -> dict[str, tuple[Any, list[str]]]:
        compartment, domains = await self.compartment(), await self.domains()
        lists = await gather(
            *(
                self._wire.pages("compute", "list_shapes", compartment, availability_domain=one)
                for one in domains
            )
        )
        found: dict[str, tuple[Any, list[str]]] = {}
        for domain, shapes in zip(domains, lists, strict=True):
            for one in shapes:
                found.setdefault(one.shape, (one, []))[1].append(domain)
        return found

    async def _list_networks(self) -> list[choosing.Network]:
        wanted = self._settings.network
        if wanted.startswith("ocid1.subnet."):
            subnets = [await self._wire.call("network", "get_subnet", wanted)]
        elif wanted.startswith("ocid1.vcn."):
            compartment = (await self._wire.call("network", "get_vcn", wanted)).compartment_id
            subnets = await self._wire.pages("network", "list_subnets", compartment, vcn_id=wanted)
        else:
            subnets = await self._named_subnets(wanted)
        if self._settings.public_address:
            closed = [one for one in subnets if one.prohibit_public_ip_on_vnic]
            subnets = [one for one in subnets if not one.prohibit_public_ip_on_vnic]
            if closed and not subnets:
                raise InvalidSettings(
                    f"{self._provider}: the network {wanted} gives no public addresses.",
                    remedy="Set 'public_address: false', or name a public subnet.",
                )
        if not subnets:
            raise InvalidSettings(
                f"{self._provider}: there is no subnet or VCN {wanted!r} in the compartment.",
                remedy="Set 'network' to its OCID; 'gridcloud provider discover' shows what there is.",
            )
        return [
            choosing.Network(one.id, one.display_name or "", one.availability_domain or "") for one in subnets
        ]

    async def _named_subnets(self, wanted: str) -> list[Any]:
        compartment = await self.compartment()
        subnets = await self._wire.pages("network", "list_subnets", compartment, display_name=wanted)
        if not subnets:
            for vcn in await self._wire.pages("network", "list_vcns", compartment, display_name=wanted):
                subnets += await self._wire.pages("network", "list_subnets", compartment, vcn_id=vcn.id)
        return [one for one in subnets if one.lifecycle_state in (None, "AVAILABLE")]

    async def _once(self, what: str, seconds: float, ask: Callable[[], Awaitable[Any]]) -> Any:
        until, answer = self._known.get(what, (0.0, None))
        if time.monotonic() >= until:
            answer = await ask()
            self._known[what] = (time.monotonic() + seconds, answer)
        return answer
