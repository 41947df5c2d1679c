"""What of an OpenStack project serves a request: image, flavor, zone, networks; what its quotas leave. Blocking."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gridcloud.drivers.instances.openstack_cloud import Cloud, FoundNetwork
from gridcloud.drivers.instances.openstack_words import MEBIBYTE, Flavor, Quota, explain_shortage, shape_of
from gridcloud.errors import InvalidRequest, InvalidSettings
from gridcloud.instances.choosing import (
    Image,
    Network,
    PricedShape,
    choose_image,
    choose_locations,
    choose_network,
)
from gridcloud.instances.cloud import Place, allowed_shapes, build_offers, image_of, with_price
from gridcloud.instances.model import Discovery, Found, Offer, Request, Shape, Step

__all__ = ["Choices", "ChosenNetwork"]

GIBIBYTE = 1024 * MEBIBYTE

NO_NETWORK = (
    "Make one with a subnet, and a router that joins it to the outside: in Horizon below Network, or as the guide to "
    "OpenStack says (docs/guide/openstack.md)."
)


@dataclass(frozen=True, slots=True)
class ChosenNetwork:
    """The network of machines, and where their floating addresses come from (empty: they have none)."""

    network: FoundNetwork
    external: str
    step: Step


class Choices:
    """Discovers and chooses."""

    def __init__(self, cloud: Cloud, provider: str) -> None:
        self._cloud = cloud
        self._settings = cloud.settings
        self._provider = provider

    def offers(self, request: Request, held: Callable[[], int]) -> list[Offer]:
        """Return offers; see the contract of drivers. ``held`` counts our servers, where there is a bound on them.

        Raises InvalidSettings where the provider's own image or network is not there.
        """
        chosen = self.network()
        try:
            image, image_step = self.image(request)
            places = self._places(request, chosen)
            why_never = ""
        except InvalidRequest as error:
            image, image_step = Image(""), Step(step="image", chosen="", why="")
            places, why_never = [], str(error)
        quotas = self.quotas(False, bool(chosen.external))
        shapes, beyond = self._shapes(request, image, quotas)
        offers = build_offers(
            request, self._settings, self._provider, shapes, places, request.image or self._settings.image, image_step
        )  # fmt: skip
        if not offers[0].possible:
            why = why_never or "; ".join(filter(None, (offers[0].why_not, beyond)))
            return [offers[0].model_copy(update={"why_not": why})]
        full = self.explain_full(held()) if self._settings.instances else ""
        if any(offer.choice["volume"] for offer in offers):
            quotas += self._cloud.volume_quotas()
        return [self._limited(offer, quotas, full) for offer in offers]

    def images(self) -> list[str]:
        """Return the names of images that a request may name, the default first."""
        wanted = (self._settings.image, *self._settings.images)
        names = sorted({image.name for image in self._cloud.images() if image.name})
        allowed = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]
        return list(dict.fromkeys([self._settings.image, *allowed]))

    def discover(self) -> Discovery:
        """Return all there is to choose from."""
        shapes = [(one, shape_of(one, self._settings.gpus)) for one in self._cloud.flavors()]
        return Discovery(
            images=tuple(
                Found(id=one.id, name=one.name, detail=one.created.date().isoformat() if one.created else "")
                for one in sorted(self._cloud.images(), key=lambda one: one.name)
            ),
            shapes=tuple(
                Found(
                    id=one.id,
                    name=one.name,
                    shape=shape,
                    price=with_price(self._settings, PricedShape(shape)).price,
                )
                for one, shape in sorted(
                    shapes, key=lambda pair: (pair[1].gpus, pair[1].cpus, pair[1].memory)
                )
            ),
            locations=tuple(Found(id=one, name=self._location(one)) for one in self._cloud.zones()),
            networks=tuple(
                Found(id=one.id, name=one.name, detail=_describe(one)) for one in self._cloud.networks()
            ),
        )

    def allowed(self) -> list[Flavor]:
        """Return the flavors that may be taken. Raises InvalidSettings where 'shapes' leaves none."""
        found = self._cloud.flavors()
        names = allowed_shapes(self._settings, self._provider, [one.name for one in found])
        return [one for one in found if one.name in names]

    def image(self, request: Request) -> tuple[Image, Step]:
        """Return the image for a request. Raises InvalidRequest for one that was asked for and is not there,
        InvalidSettings where it is the provider's own."""
        wanted, asked = image_of(self._settings, request, self._provider)
        try:
            return choose_image(wanted, self._cloud.images(), asked)
        except InvalidRequest as error:
            if asked and request.image != self._settings.image:
                raise
            raise InvalidSettings(
                f"{self._provider}: {error.message}", remedy=f"Set 'image'. {error.remedy}"
            ) from error

    def network(self) -> ChosenNetwork:
        """Return the network of machines and where their floating addresses come from.

        Raises InvalidSettings where there is none or no telling which.
        """
        found = [one for one in self._cloud.networks() if one.usable]
        fit = [one for one in found if one.open]
        wanted = self._settings.network
        if not fit or (wanted and any(wanted in (one.id, one.name) and not one.open for one in found)):
            raise self._no_network(found)
        inside = [one for one in fit if wanted in (one.id, one.name) or not (wanted or one.external)]
        try:
            chosen, step = choose_network([_as_network(one) for one in inside or fit], wanted)
        except InvalidRequest as error:
            raise InvalidSettings(f"{self._provider}: {error.message}", remedy=error.remedy) from error
        network = next(one for one in found if one.id == chosen.id)
        if not self._settings.public_address or network.external:
            return ChosenNetwork(network, "", step)
        beyond = self._external(network, [one for one in found if one.external])
        why = f"{step.why}; addresses from {beyond.name or beyond.id}"
        return ChosenNetwork(network, beyond.id, step.model_copy(update={"why": why}))

    def quotas(self, volume: bool, address: bool) -> list[Quota]:
        """Return what the project may have and has; of volumes and floating addresses where these are needed."""
        found = self._cloud.compute_quotas()
        if volume:
            found += self._cloud.volume_quotas()
        return found + [one for one in self._cloud.address_quotas() if address or one.what == "ports"]

    def needs(self, shape: Shape, volume: int, address: bool) -> dict[str, int]:
        """Return what an instance takes of each quota, in its units."""
        needs = {"CPUs": int(shape.cpus), "memory": shape.memory // MEBIBYTE, "instances": 1, "ports": 1}
        if volume:
            needs |= {"volumes": 1, "volume storage": volume}
        return needs | ({"floating addresses": 1} if address else {})

    def needs_of_server(self, server: Any) -> Mapping[str, int]:
        """Return what a server takes of the quotas of nova."""
        flavor = server.flavor
        return {"CPUs": flavor.vcpus or 0, "memory": flavor.ram or 0, "instances": 1}

    def explain_full(self, held: int) -> str:
        """Return why the provider gives no more machines, by its own setting; empty while it does."""
        most = self._settings.instances
        return (
            f"{held} of {most} machines are taken (the provider's 'instances')"
            if most and held >= most
            else ""
        )

    def _no_network(self, found: list[FoundNetwork]) -> InvalidSettings:
        """Return the refusal to make machines where only floating addresses come from, as in a project that is new."""
        there = ", ".join(sorted(one.name or one.id for one in found if one.open))
        closed = ", ".join(sorted(one.name or one.id for one in found if not one.open))
        wanted = self._settings.network
        said = (
            f"Machines cannot be in the network {wanted!r}, which gives floating addresses only"
            if wanted and found
            else "The project has no network for machines"
            + (f" (floating addresses come from {closed})" if closed else "")
        )
        return InvalidSettings(
            f"{self._provider}: {said}.",
            remedy=f"Set 'network' to one of: {there}." if there else NO_NETWORK,
        )

    def _limited(self, offer: Offer, quotas: list[Quota], full: str) -> Offer:
        needs = self.needs(offer.shape, offer.choice["volume"], bool(offer.choice["external"]))
        why = full or explain_shortage(quotas, needs)
        return offer.model_copy(update={"available": False, "why_not": why}) if why else offer

    def _shapes(self, request: Request, image: Image, quotas: list[Quota]) -> tuple[list[PricedShape], str]:
        """Return the flavors that this project could ever have with this image, and which larger ones it could not."""
        shapes, beyond = [], ""
        for flavor in self.allowed():
            volume = self._volume(flavor, request, image)
            if volume is None or flavor.memory < image.choice.get("memory", 0):
                continue
            shape = shape_of(flavor, self._settings.gpus, volume)
            why = explain_shortage(quotas, self.needs(shape, 0, False), ever=True)
            if why:
                beyond = f"larger ones are beyond {why.partition(',')[0]}"
                continue
            choice = {"flavor": flavor.id, "image": image.id, "volume": volume}
            shapes.append(PricedShape(shape, choice=choice))
        return shapes, beyond

    def _volume(self, flavor: Flavor, request: Request, image: Image) -> int | None:
        """Return the size in GiB of the volume to boot from, 0 for the flavor's own disk, None where neither does."""
        least = image.choice.get("disk", 0)
        wanted = max(-(-max(request.disk, self._settings.disk) // GIBIBYTE), least)
        mode = self._settings.volume
        if mode == "never" or (mode == "auto" and flavor.disk and flavor.disk >= wanted):
            return 0 if flavor.disk and flavor.disk >= least else None
        return max(wanted, flavor.disk, 1) if self._cloud.has_volumes() else None

    def _places(self, request: Request, chosen: ChosenNetwork) -> list[Place]:
        zones = self._cloud.zones()
        choice = {
            "network": chosen.network.id,
            "secured": chosen.network.secured,
            "external": chosen.external,
        }
        names = {self._location(zone): zone for zone in zones}
        region = self._location("")
        if self._settings.zones or (request.location and request.location.lower() not in region.lower()):
            preferred = [self._location(zone) for zone in self._settings.zones]
            why = "asked for" if request.location else "preferred in the configuration"
            return [
                Place(
                    name,
                    (Step(step="location", chosen=name, why=why), chosen.step),
                    {**choice, "zone": names[name]},
                )
                for name in choose_locations(request, list(names), preferred)
            ]
        step = Step(step="location", chosen=region, why="the cloud chooses the zone")
        return [Place(region, (step, chosen.step), {**choice, "zone": ""})]

    def _location(self, zone: str) -> str:
        return "/".join(filter(None, (self._settings.location or self._cloud.region(), zone)))

    def _external(self, network: FoundNetwork, external: list[FoundNetwork]) -> FoundNetwork:
        wanted = self._settings.external_network
        joined = [] if wanted else self._cloud.gateways(network.id)
        candidates = [one for one in external if one.id in joined] or external
        try:
            chosen, _ = choose_network(
                [replace(_as_network(one), shared=False) for one in candidates], wanted
            )
        except InvalidRequest as error:
            raise InvalidSettings(
                f"{self._provider}: there is {'no' if not external else 'no telling which'} network that floating "
                f"addresses come from{f': none is called {wanted!r}' if wanted and external else ''}.",
                remedy="Set 'external_network' to one of: "
                f"{', '.join(sorted(one.name or one.id for one in external)) or '(none)'}; or 'public_address' to "
                "false, where machines are reached by their own address or through 'jump'.",
            ) from error
        return next(one for one in candidates if one.id == chosen.id)


def _as_network(one: FoundNetwork) -> Network:
    return Network(one.id, one.name, shared=not one.own)


def _describe(one: FoundNetwork) -> str:
    words = [
        "own" if one.own else "shared",
        "external" if one.external else "",
        "" if one.usable else "not usable",
    ]
    return ", ".join(filter(None, words))
