"""What an account has to choose from in a region: images, shapes, zones and networks, and what its quotas leave.

Blocking; what changes rarely is remembered.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from gridcloud.drivers.instances.ec2_prices import Prices
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.drivers.instances.ec2_wire import Wire
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.instances.choosing import (
    Image,
    Network,
    PricedShape,
    choose_image,
    choose_locations,
    choose_network,
    choose_shapes,
)
from gridcloud.instances.cloud import Place, build_offers, image_of
from gridcloud.instances.model import Discovery, Found, Offer, Request, Shape, Step

__all__ = ["Choices", "family_quota", "read_shape"]

T = TypeVar("T")

KNOWN = 300
"""Seconds for which images, networks and quotas are believed."""
SHAPES_KNOWN = 3600
MEBIBYTE = 1 << 20

# Quotas on running vCPUs (Service Quotas, service code ec2): by the letters that a shape's name begins with.
FAMILIES = {
    ("on-demand", "standard"): "L-1216C47A",
    ("on-demand", "g"): "L-DB2E81BA",
    ("on-demand", "p"): "L-417A185B",
    ("spot", "standard"): "L-34B43A08",
    ("spot", "g"): "L-3819A6DF",
    ("spot", "p"): "L-7212CCBC",
}


class Choices:
    """The choices of one provider."""

    def __init__(self, wire: Wire, settings: EC2Settings, prices: Prices, provider: str) -> None:
        self._wire = wire
        self._settings = settings
        self._prices = prices
        self._provider = provider
        self._known: dict[str, tuple[float, Any]] = {}
        self._looking: dict[str, threading.Lock] = {}

    def forget(self) -> None:
        """Believe nothing that was seen."""
        self._known.clear()

    def offers(self, request: Request, running: Callable[[], Sequence[Mapping[str, Any]]]) -> list[Offer]:
        """Return offers for a request. ``running`` returns our machines, asked only where their number is limited."""
        settings = self._settings
        shapes = self.shapes()
        names = choose_shapes(request, self._priced(shapes), settings.shapes, most=6)
        try:
            wanted, asked = image_of(settings, request, self._provider)
            image, image_step = choose_image(wanted, self.images(wanted), asked)
            places = self._places(request)
        except InvalidRequest as error:
            return self._never(request, shapes, str(error))
        zones = self.offerings([one.shape.name for one in names])
        shapes = [one for one in shapes if not names or zones.get(one.shape.name)]
        spot = self._prices.spot([one.shape.name for one in names]) if request.spot and names else {}
        priced = [
            PricedShape(one.shape, one.price, spot.get(one.shape.name), one.choice)
            for one in self._priced(shapes)
        ]
        full = ""
        if settings.instances and (held := len(running())) >= settings.instances:
            full = f"{held} machines are held, and 'instances' allows {settings.instances}"
        built = build_offers(
            request, settings, self._provider, priced, places, image.id, image_step, why_not=full
        )
        offers = [one for one in built if not one.possible or one.location in zones.get(one.shape.name, ())]
        if not offers:
            return self._never(request, shapes, "no zone that may be taken has a shape that fits")
        return [self._with_quota(one) for one in offers]

    def discover(self) -> Discovery:
        """Return images, shapes, zones and subnets."""
        settings = self._settings
        images = [image for wanted in (settings.image, *settings.images) for image in self.images(wanted)]
        networks = self.networks()
        allowed = [
            one
            for one in self._priced(self.shapes())
            if any(fnmatch.fnmatchcase(one.shape.name, pattern) for pattern in settings.shapes)
        ]
        return Discovery(
            images=tuple(Found(id=one.id, name=one.name) for one in images),
            shapes=tuple(Found(id=one.shape.name, shape=one.shape, price=one.price) for one in allowed),
            locations=tuple(Found(id=one) for one in sorted({one.location for one in networks})),
            networks=tuple(Found(id=one.id, name=one.name, detail=one.location) for one in networks),
        )

    def images(self, wanted: str) -> list[Image]:
        """Return the images that an id, a name or a pattern may mean."""

        def look() -> list[Image]:
            if re.fullmatch(r"ami-[0-9a-f]+", wanted):
                found = self._wire.pages(
                    "describe_images", "Images", Filters=[{"Name": "image-id", "Values": [wanted]}]
                )
            else:
                filters = {"name": wanted, "state": "available", "architecture": self._settings.architecture}
                found = self._wire.pages(
                    "describe_images",
                    "Images",
                    Owners=list(self._settings.image_owners),
                    Filters=[{"Name": name, "Values": [value]} for name, value in filters.items()],
                )
            return [
                Image(
                    one["ImageId"], one.get("Name", ""), _when(one.get("CreationDate")), {"root": _root(one)}
                )
                for one in found
            ]

        return self._remembered(f"image {wanted}", look)

    def shapes(self) -> list[PricedShape]:
        """Return the shapes that the configuration allows, with the processors it wants."""

        def look() -> list[PricedShape]:
            filters = [
                {"Name": "processor-info.supported-architecture", "Values": [self._settings.architecture]}
            ]
            if "*" not in self._settings.shapes:
                filters.append({"Name": "instance-type", "Values": list(self._settings.shapes)})
            found = self._wire.pages("describe_instance_types", "InstanceTypes", Filters=filters)
            return [
                PricedShape(read_shape(one))
                for one in found
                if self._settings.architecture in one["ProcessorInfo"]["SupportedArchitectures"]
            ]

        return self._remembered("shapes", look, SHAPES_KNOWN)

    def offerings(self, shapes: Sequence[str]) -> dict[str, set[str]]:
        """Return the zones that have each of these shapes."""

        def look() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {name: set() for name in shapes}
            for one in self._wire.pages(
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": list(shapes)}],
            ):
                found.setdefault(one["InstanceType"], set()).add(one["Location"])
            return found

        return self._remembered(f"zones {sorted(shapes)}", look, SHAPES_KNOWN) if shapes else {}

    def networks(self) -> list[Network]:
        """Return the subnets that may be taken. Raises InvalidSettings when those that are named are not there."""

        def look() -> list[Network]:
            settings = self._settings
            words: dict[str, Any] = {}
            if settings.subnets:
                words["SubnetIds"] = list(settings.subnets)
            elif settings.vpc:
                words["Filters"] = [{"Name": "vpc-id", "Values": [settings.vpc]}]
            else:
                words["Filters"] = [{"Name": "default-for-az", "Values": ["true"]}]
            found = list(self._wire.pages("describe_subnets", "Subnets", **words))
            if not found:
                raise InvalidSettings(
                    f"{self._provider}: there is no subnet to put machines in.",
                    remedy="Name 'subnets' or 'vpc', or have Amazon make the default VPC again.",
                )
            return [
                Network(
                    one["SubnetId"],
                    next((tag["Value"] for tag in one.get("Tags", ()) if tag["Key"] == "Name"), ""),
                    one["AvailabilityZone"],
                    default=bool(one.get("DefaultForAz")),
                )
                for one in found
            ]

        return self._remembered("networks", look)

    def vpc(self) -> str:
        """Return the VPC that the subnets are in."""
        subnet = self.networks()[0].id
        found = self._wire.call("describe_subnets", SubnetIds=[subnet])["Subnets"]
        return str(found[0]["VpcId"])

    def quota(self, family: str, kind: str) -> tuple[int, int] | None:
        """Return the vCPUs that a family's quota allows and those that run now; None where the account may not ask."""

        def look() -> tuple[int, int] | None:
            code = FAMILIES[kind, family]
            try:
                said = self._wire.call(
                    "get_service_quota", "service-quotas", ServiceCode="ec2", QuotaCode=code
                )
                allowed = int(said["Quota"]["Value"])
                states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
                used = sum(
                    _cpus_of(one)
                    for entry in self._wire.pages("describe_instances", "Reservations", Filters=states)
                    for one in entry["Instances"]
                    if family_quota(one["InstanceType"]) == family
                    and (one.get("InstanceLifecycle") == "spot") == (kind == "spot")
                )
            except (GridcloudError, KeyError, TypeError, ValueError):
                return None  # a right that not every account has; the launch itself tells in the end
            return allowed, used

        return self._remembered(f"quota {kind} {family}", look, 30)

    # Parts ---------------------------------------------------------------------------------------------------

    def _priced(self, shapes: Sequence[PricedShape]) -> list[PricedShape]:
        prices = self._prices.on_demand()
        return [PricedShape(one.shape, prices.get(one.shape.name), None, one.choice) for one in shapes]

    def _places(self, request: Request) -> list[Place]:
        networks = self.networks()
        zones = choose_locations(request, sorted({one.location for one in networks}))
        places = []
        for zone in zones:
            here = [one for one in networks if one.location == zone]
            if self._settings.subnets:
                network, step = (
                    here[0],
                    Step(step="network", chosen=here[0].id, why="named in the configuration"),
                )
            else:
                network, step = choose_network(here, location=zone)
            why = "asked for" if request.location else f"one of {len(zones)} zones with a subnet"
            location = Step(step="location", chosen=zone, why=why)
            places.append(Place(zone, (location, step), {"subnet": network.id}))
        return places

    def _with_quota(self, offer: Offer) -> Offer:
        if not offer.available:
            return offer
        family = family_quota(offer.shape.name)
        found = self.quota(family, "spot" if offer.spot else "on-demand") if family else None
        if found is None or found[1] + offer.shape.cpus <= found[0]:
            return offer
        allowed, used = found
        why = f"the account's quota for {family} shapes is {allowed} vCPUs, {used} run, {offer.shape.cpus:g} are asked"
        return offer.model_copy(update={"available": False, "why_not": why})

    def _never(self, request: Request, shapes: Sequence[PricedShape], why: str) -> list[Offer]:
        step = Step(step="image", chosen="", why="")
        [built] = build_offers(request, self._settings, self._provider, self._priced(shapes), (), "", step)
        return [built.model_copy(update={"why_not": why})]

    def _remembered(self, key: str, look: Callable[[], T], seconds: float = KNOWN) -> T:
        known = self._known.get(key)
        if known is None or time.monotonic() - known[0] > seconds:
            # Fifty who ask at once cause one look.
            with self._looking.setdefault(key, threading.Lock()):
                known = self._known.get(key)
                if known is None or time.monotonic() - known[0] > seconds:
                    known = self._known[key] = (time.monotonic(), look())
        found: T = known[1]
        return found


def read_shape(said: Mapping[str, Any]) -> Shape:
    """Return a shape from what DescribeInstanceTypes says of it. Its disk is made with the machine, of any size."""
    gpus = said.get("GpuInfo", {}).get("Gpus", ())
    names = {f"{one.get('Manufacturer', '')} {one.get('Name', '')}".strip() for one in gpus}
    return Shape(
        name=said["InstanceType"],
        cpus=said["VCpuInfo"]["DefaultVCpus"],
        memory=said["MemoryInfo"]["SizeInMiB"] * MEBIBYTE,
        gpus=sum(int(one.get("Count", 0)) for one in gpus),
        gpu_model=", ".join(sorted(names)),
        gpu_memory=max((one.get("MemoryInfo", {}).get("SizeInMiB", 0) for one in gpus), default=0) * MEBIBYTE,
    )


def family_quota(shape: str) -> str:
    """Return which quota on vCPUs a shape falls under: standard, g or p; empty for those that are not known here."""
    letters = re.match(r"[a-z]+", shape)
    family = letters[0] if letters else ""
    if family.startswith(("g", "vt")):
        return "g"
    if family.startswith("p"):
        return "p"
    return (
        "standard" if family[:1] in "acdhimrtz" and not family.startswith(("dl", "hpc", "inf", "trn")) else ""
    )


def _cpus_of(machine: Mapping[str, Any]) -> int:
    options = machine.get("CpuOptions", {})
    return int(options.get("CoreCount", 1)) * int(options.get("ThreadsPerCore", 1))


def _when(text: Any) -> datetime | None:
    with contextlib.suppress(TypeError, ValueError):
        found = datetime.fromisoformat(str(text))
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _root(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name and size (GiB) of the disk that an image starts from."""
    name = image.get("RootDeviceName") or "/dev/xvda"
    disks = {one.get("DeviceName"): one.get("Ebs", {}) for one in image.get("BlockDeviceMappings", ())}
    return {"name": name, "size": int(disks.get(name, {}).get("VolumeSize") or 0)}
