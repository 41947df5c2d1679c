"""What a project in an OpenStack region has to choose from and how much is left: the wire, blocking.

One connection, made at the first question; what changes rarely is remembered for a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import openstack.connection
import openstack.exceptions

from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.drivers.instances.openstack_words import MEBIBYTE, Flavor, Quota, is_refusal, translate
from gridcloud.drivers.openstack import read_cloud
from gridcloud.errors import GridcloudError, InvalidSettings
from gridcloud.instances.choosing import Image

__all__ = ["Cloud", "FoundNetwork", "when"]

T = TypeVar("T")

KNOWN = 60
"""Seconds for which flavors, images, networks and zones are believed."""


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """A network as this project sees it."""

    id: str
    name: str
    own: bool
    external: bool
    """Floating addresses come from it."""
    open: bool
    """Machines of this project may be in it: one that is external is for floating addresses alone, unless shared."""
    usable: bool
    """It is up and has addresses to give."""
    secured: bool
    """Security groups hold in it."""


class Cloud:
    """One project in one region. Every method may raise what `translate` gives."""

    def __init__(self, settings: OpenStackSettings) -> None:
        self.settings = settings
        self._connection: openstack.connection.Connection | None = None
        self._known: dict[str, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"The cloud {self.settings.cloud!r}"

    @property
    def sdk(self) -> Any:
        """The SDK's connection. Raises InvalidSettings for a cloud or region that is not there."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def ask(self, call: Callable[[], T]) -> T:
        """Return what a call of the SDK gives, its errors in our words."""
        try:
            return call()
        except GridcloudError:
            raise
        except Exception as error:  # the SDK's errors have two roots, and its libraries' slip through
            ours = translate(error, self.label)
            if ours is None:
                raise
            if "region" in ours.message and self._connection is not None:
                ours = self._explain_region(ours, self._connection)
            if is_refusal(error):
                self.close()  # whoever asks next reads clouds.yaml again: it may have been put right
            raise ours from error

    def forget(self) -> None:
        """Believe nothing that was seen."""
        self._known.clear()

    def close(self) -> None:
        """Let go of the connection. May be called twice."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # What there is

    def flavors(self) -> list[Flavor]:
        """Return the flavors that this project may take."""

        def look() -> list[Flavor]:
            found = list(self.sdk.compute.flavors(details=True))
            if not any(one.extra_specs for one in found):  # before 2.61 they are not told with the flavors
                newest = self.sdk.compute.get_endpoint_data().max_microversion
                if newest is None or newest < (2, 61):
                    found = [one.fetch_extra_specs(self.sdk.compute) for one in found]
            return [
                Flavor(one.id, one.name, one.vcpus, one.ram, one.disk, dict(one.extra_specs or {}))
                for one in found
                if not one.is_disabled
            ]

        return self._remembered("flavors", look)

    def images(self) -> list[Image]:
        """Return the images that can be booted; their choice holds ``disk`` (GiB) and ``memory`` (MiB) they need."""

        def look() -> list[Image]:
            return [
                Image(
                    id=one.id,
                    name=one.name or "",
                    created=when(one.created_at),
                    choice={
                        "disk": max(one.min_disk or 0, _gibibytes(max(one.virtual_size or 0, one.size or 0))),
                        "memory": one.min_ram or 0,
                    },
                )
                for one in self.sdk.image.images(status="active")
            ]

        return self._remembered("images", look)

    def networks(self) -> list[FoundNetwork]:
        """Return the networks that this project sees."""

        def look() -> list[FoundNetwork]:
            project = self.project()
            return [
                FoundNetwork(
                    id=one.id,
                    name=one.name or "",
                    own=one.project_id == project,
                    external=bool(one.is_router_external),
                    open=one.project_id == project or bool(one.is_shared) or not one.is_router_external,
                    usable=bool(one.is_admin_state_up and one.subnet_ids),
                    secured=one.is_port_security_enabled is not False,
                )
                for one in self.sdk.network.networks()
            ]

        return self._remembered("networks", look)

    def gateways(self, network: str) -> list[str]:
        """Return the ids of the external networks that routers join this one to."""

        def look() -> list[str]:
            routers = {
                one.id: (one.external_gateway_info or {}).get("network_id")
                for one in self.sdk.network.routers()
            }
            ports = self.sdk.network.ports(network_id=network)
            beyond = [routers.get(one.device_id) for one in ports if "router" in (one.device_owner or "")]
            return sorted({one for one in beyond if one})

        return self._remembered(f"gateways of {network}", look)

    def zones(self) -> list[str]:
        """Return the availability zones that take machines."""

        def look() -> list[str]:
            found = self.sdk.compute.availability_zones()
            return sorted(one.name for one in found if (one.state or {}).get("available", True))

        return self._remembered("zones", look)

    def region(self) -> str:
        """Return the region's name; empty where the cloud has none."""
        return str(self.sdk.config.region_name or "")

    def project(self) -> str:
        """Return the project's id."""
        return str(self.sdk.current_project_id)

    def has_volumes(self) -> bool:
        """Return whether there is a block storage service."""
        return self._remembered("volumes", lambda: bool(self.sdk.has_service("block-storage")))

    # How much is left

    def compute_quotas(self) -> list[Quota]:
        """Return how many CPUs, how much memory and how many instances the project may have, and has."""
        limits = self.sdk.compute.get_limits().absolute
        return [
            Quota("CPUs", _limit(limits.total_cores), limits.total_cores_used or 0),
            Quota("memory", _limit(limits.total_ram), limits.total_ram_used or 0, MEBIBYTE),
            Quota("instances", _limit(limits.instances), limits.instances_used or 0),
        ]

    def address_quotas(self) -> list[Quota]:
        """Return how many floating addresses and ports the project may have, and has; nothing where the cloud does
        not tell its users."""
        try:
            details = self.sdk.network.get_quota(self.project(), details=True)
        except (openstack.exceptions.ForbiddenException, openstack.exceptions.NotFoundException):
            return []
        return [
            Quota(what, _limit(said.get("limit")), int(said.get("used", 0)) + int(said.get("reserved", 0)))
            for what, said in (("floating addresses", details.floating_ips), ("ports", details.ports))
            if isinstance(said, Mapping)
        ]

    def volume_quotas(self) -> list[Quota]:
        """Return how many volumes and how much storage in them the project may have, and has."""
        limits = self.sdk.block_storage.get_limits().absolute
        gibibyte = 1024 * MEBIBYTE
        return [
            Quota("volumes", _limit(limits.max_total_volumes), limits.total_volumes_used or 0),
            Quota(
                "volume storage",
                _limit(limits.max_total_volume_gigabytes),
                limits.total_gigabytes_used or 0,
                gibibyte,
            ),
        ]

    def _connect(self) -> openstack.connection.Connection:
        settings = self.settings
        try:
            region = self.ask(
                lambda: read_cloud(self.label, settings.cloud, settings.clouds_file, settings.region)
            )
        except InvalidSettings as error:
            if settings.region and settings.region in error.message:
                raise InvalidSettings(
                    f"{self.label} has no region {settings.region!r}: {error.message}",
                    remedy="Set 'region' to one that the cloud's entry in clouds.yaml names, or add it there.",
                ) from error
            raise
        return openstack.connection.Connection(config=region)

    def _explain_region(self, error: GridcloudError, sdk: Any) -> GridcloudError:
        """Name the regions there are, where the one asked for is not among them."""
        try:
            catalog = sdk.session.auth.get_access(sdk.session).service_catalog
            regions = sorted(
                {one["region"] for one in catalog.get_endpoints().get("compute", []) if one["region"]}
            )
        except Exception:  # only better words are lost: the error itself is raised
            return error
        region = str(sdk.config.region_name or "")
        if not regions or region in regions:
            return error
        return InvalidSettings(
            f"{self.label} has no region {region!r}.",
            remedy=f"Set 'region' to one of: {', '.join(regions)}.",
        )

    def _remembered(self, what: str, look: Callable[[], T]) -> T:
        now = time.monotonic()
        known = self._known.get(what)
        if known is None or now - known[0] > KNOWN:
            known = self._known[what] = (now, look())
        value: T = known[1]
        return value


def when(text: str | None) -> datetime | None:
    """Return a moment as OpenStack writes it; None where it wrote none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _limit(value: int | None) -> int:
    return -1 if value is None else int(value)


def _gibibytes(size: int) -> int:
    return -(-size // (1024 * MEBIBYTE))
