"""What is ours in an OpenStack project: found by its mark, made once, removed whole. Blocking.

A machine is a server, a port, mostly a floating address, and where it boots from one a volume. Servers carry their
marks in metadata; ports, addresses and security groups in the description, since both are set in the call that makes
the thing: whatever is ours says so from its first moment. Volumes are made and removed by nova with their server.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import openstack.exceptions

from gridcloud.drivers.instances.openstack_cloud import Cloud, when
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    Rejected,
    Transient,
)
from gridcloud.instances.model import SHARED

__all__ = ["Plan", "Removal", "Thing", "Things"]

PREFIX = "gridcloud-"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make for one instance."""

    id: str
    owner: str
    title: str
    flavor: str
    image: str
    network: str
    secured: bool
    external: str
    """Id of the network the floating address comes from; empty: none."""
    zone: str
    volume: int
    """Size in GiB of the volume to boot from; 0: none."""
    user_data: str

    def __repr__(self) -> str:  # the user data holds a key
        return f"Plan({self.id!r})"


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of ours: ``id`` of the instance or SHARED, what it is, its name, when it was made."""

    id: str
    what: str
    name: str
    created: datetime | None
    server: str = ""
    """Its id, where the thing is a server."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What of an instance is being removed: ids of its servers and volumes."""

    id: str
    servers: tuple[str, ...]
    volumes: tuple[str, ...]
    unmade: bool
    """Whether one was still being made."""


class Things:
    """What one provider of one installation has in one project."""

    def __init__(self, cloud: Cloud, installation: str, provider: str) -> None:
        self._cloud = cloud
        self._installation = _plain(installation)
        self._provider = _plain(provider)
        # Descriptions have little room, and both names may hold anything.
        self._holder = hashlib.sha256(f"{installation}\0{provider}".encode()).hexdigest()[:20]

    def servers(self, instance_id: str = "") -> list[Any]:
        """Return our servers, or those of one instance, the oldest first; not those that are being removed."""
        wanted = f"^{PREFIX}{instance_id}$" if instance_id else f"^{PREFIX}"
        found = self._cloud.sdk.compute.servers(details=True, name=wanted)
        return _by_age(
            one for one in found if self._is_ours(one, instance_id) and one.task_state != "deleting"
        )

    def find(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Return the servers of instances, by instance; ``wanted`` names each by its id. None: nova has it no longer.
        A GridcloudError in its place: nova would not say.

        One that no listing shows is asked for by itself: nova leaves out a cell that is down, and what others renamed.
        """
        listed = {one.id: one for one in self.servers()}
        return {
            instance_id: listed.get(server) or self._find(instance_id, server)
            for instance_id, server in wanted.items()
        }

    def all(self) -> list[Thing]:
        """Return everything that is ours."""
        sdk, project = self._cloud.sdk, self._cloud.project()
        found = [
            Thing(one.metadata["gridcloud-instance"], "machine", one.name, when(one.created_at), one.id)
            for one in sdk.compute.servers(details=True, name=f"^{PREFIX}")
            if self._is_ours(one)
        ]
        kinds = (
            ("network port", sdk.network.ports(project_id=project), "name"),
            ("address", sdk.network.ips(project_id=project), "floating_ip_address"),
            ("security group", sdk.network.security_groups(project_id=project), "name"),
        )
        for what, things, name in kinds:
            found += [
                Thing(marked, what, getattr(one, name) or one.id, when(one.created_at))
                for one in things
                if (marked := self._marked(one.description))
            ]
        return found

    def found(self, instance_id: str) -> dict[str, Any] | None:
        """Return the handle's words for the server that an instance has; None where it has none."""
        servers = self.servers(instance_id)
        if not servers:
            return None
        for twin in servers[1:]:  # made at the same moment by another process of ours: the oldest stays
            self._gone(self._cloud.sdk.compute.delete_server, twin.id)
        port = next(iter(self._ports(instance_id)), None)
        address = next(iter(self._addresses(instance_id)), None)
        host = address.floating_ip_address if address else _fixed(port) if port else _address_of(servers[0])
        return {"server": servers[0].id, "host": host}

    def make(self, plan: Plan) -> dict[str, Any]:
        """Make what the plan says, using what a call that was cut short has left; return the handle's words."""
        port = self._ensure_port(plan)
        address = self._ensure_address(plan, port) if plan.external else None
        server = self._make_server(plan, port)
        return {"server": server.id, "host": address.floating_ip_address if address else _fixed(port)}

    def begin_removal(self, instance_id: str, server_id: str = "") -> Removal:
        """Have nova remove the servers of an instance, and take its floating addresses away.

        ``server_id``: one that must be gone though no listing shows it: nova leaves out a cell that is down.
        """
        sdk = self._cloud.sdk
        servers = [
            one
            for one in sdk.compute.servers(details=True, name=f"^{PREFIX}{instance_id}$")
            if self._is_ours(one, instance_id)
        ]
        if server_id and all(one.id != server_id for one in servers):
            with contextlib.suppress(openstack.exceptions.NotFoundException):
                server = sdk.compute.get_server(server_id)
                if server.status != "DELETED" and self._is_ours(server, instance_id):
                    servers.append(server)
        for server in servers:
            self._gone(sdk.compute.delete_server, server.id)
        for address in self._addresses(instance_id):
            self._gone(sdk.network.delete_ip, address.id)
        volumes = {str(one["id"]) for server in servers for one in server.attached_volumes or ()}
        unmade = any(server.status == "BUILD" for server in servers)
        return Removal(instance_id, tuple(one.id for one in servers), tuple(sorted(volumes)), unmade)

    def remaining(self, removal: Removal) -> str:
        """Return in words which server nova is still removing; empty when none is left."""
        for server in removal.servers:
            try:
                seen = self._cloud.sdk.compute.get_server(server)
            except openstack.exceptions.NotFoundException:
                continue
            if seen.status != "DELETED":
                return f"{seen.name} ({seen.id}), {seen.status}"
        return ""

    def finish_removal(self, removal: Removal) -> None:
        """Remove what is left once the servers are gone, and with the last instance what they shared.

        Raises Transient when it is not certain that it is gone.
        """
        sdk = self._cloud.sdk
        for port in self._ports(removal.id):
            self._gone(sdk.network.delete_port, port.id)
        for volume in removal.volumes:
            self._gone(sdk.block_storage.delete_volume, volume)
        if not any(thing.id != SHARED for thing in self.all()):
            self._remove_groups()

    def remove_shared(self) -> None:
        """Remove what all instances share. Raises Transient while there is one."""
        held = [thing for thing in self.all() if thing.id != SHARED]
        if held:
            raise Transient(
                f"{self._cloud.label}: the security group still serves {held[0].what} {held[0].name}.",
                remedy="It goes with the last instance.",
            )
        self._remove_groups()

    # Making

    def _doors(self) -> list[str]:
        """Return the ids of the security groups of machines: those that are named, else ours, made where it is not."""
        settings, network = self._cloud.settings, self._cloud.sdk.network
        if not settings.security_groups:
            return [self._ensure_group()]
        found = [network.find_security_group(one, ignore_missing=True) for one in settings.security_groups]
        for name, group in zip(settings.security_groups, found, strict=True):
            if group is None:
                raise InvalidSettings(
                    f"{self._cloud.label} has no security group {name!r}.",
                    remedy="Set 'security_groups' to those that 'openstack security group list' shows.",
                )
        return [str(group.id) for group in found]

    def _ensure_group(self) -> str:
        network = self._cloud.sdk.network
        groups = self._groups()
        if groups:
            group = groups[0]
        else:
            group = network.create_security_group(
                name=f"{PREFIX}{self._holder}", description=self._mark(SHARED)
            )
        rules = list(network.security_group_rules(security_group_id=group.id, direction="ingress"))
        wanted = set(self._cloud.settings.allow_from)
        for rule in rules:
            if rule.remote_ip_prefix not in wanted:  # the configuration said otherwise when it was made
                network.delete_security_group_rule(rule.id, ignore_missing=True)
        for source in sorted(wanted - {rule.remote_ip_prefix for rule in rules}):
            version = 6 if ":" in source else 4
            try:
                network.create_security_group_rule(
                    security_group_id=group.id, direction="ingress", ethertype=f"IPv{version}", protocol="tcp",
                    port_range_min=22, port_range_max=22, remote_ip_prefix=source,
                )  # fmt: skip
            except openstack.exceptions.ConflictException:
                pass  # another instance's creation was quicker
        return str(group.id)

    def _ensure_port(self, plan: Plan) -> Any:
        ports = self._ports(plan.id)
        if ports:
            return ports[0]
        words: dict[str, Any] = {
            "network_id": plan.network,
            "name": f"{PREFIX}{plan.id}",
            "description": self._mark(plan.id),
        }
        for last in (False, True):
            if plan.secured:
                words["security_groups"] = self._doors()
            try:
                return self._cloud.sdk.network.create_port(**words)
            except openstack.exceptions.NotFoundException:
                # The group went with the last instance between these two calls; or the network is gone.
                if last or not plan.secured:
                    raise
        raise AssertionError("the second try returns or raises")

    def _ensure_address(self, plan: Plan, port: Any) -> Any:
        addresses = self._addresses(plan.id)
        if addresses:
            address = addresses[0]
            if address.port_id != port.id:
                address = self._cloud.sdk.network.update_ip(address, port_id=port.id)
            return address
        try:
            return self._cloud.sdk.network.create_ip(
                floating_network_id=plan.external, port_id=port.id, description=self._mark(plan.id)
            )
        except openstack.exceptions.NotFoundException as error:
            raise InvalidRequest(
                f"{self._cloud.label} gives the machine no floating address: {error.details or error}",
                remedy="A router has to join the provider's 'network' to its 'external_network'; or set "
                "'public_address' to false.",
            ) from error

    def _make_server(self, plan: Plan, port: Any) -> Any:
        settings = self._cloud.settings
        words: dict[str, Any] = {
            "name": f"{PREFIX}{plan.id}",
            "flavor_id": plan.flavor,
            "networks": [{"port": port.id}],
            "metadata": {
                "gridcloud-installation": self._installation,
                "gridcloud-provider": self._provider,
                "gridcloud-instance": plan.id,
                "gridcloud-owner": _plain(plan.owner),
                "gridcloud-name": _plain(plan.title),
            },
            "user_data": base64.b64encode(plan.user_data.encode()).decode(),
        }
        if plan.zone:
            words["availability_zone"] = plan.zone
        if settings.config_drive:
            words["config_drive"] = True
        if plan.volume:
            disk = {
                "boot_index": 0,
                "uuid": plan.image,
                "source_type": "image",
                "destination_type": "volume",
                "volume_size": plan.volume,
                "delete_on_termination": True,
            }
            if settings.volume_type:
                disk["volume_type"] = settings.volume_type
            words["block_device_mapping_v2"] = [disk]
        else:
            words["image_id"] = plan.image
        return self._cloud.sdk.compute.create_server(**words)

    # Removing

    def _remove_groups(self) -> None:
        for group in self._groups():
            try:
                self._cloud.sdk.network.delete_security_group(group.id)
            except openstack.exceptions.ConflictException:
                pass  # an instance that is being made just now took it

    def _gone(self, remove: Any, thing: str) -> None:
        try:
            self._cloud.ask(lambda: remove(thing, ignore_missing=True))
        except NotFound:
            pass
        except (Conflict, Rejected) as error:
            # Locked, in use, or in a state that nova does not end: it is there, and nobody knows for how long.
            raise Transient(
                f"{thing} is still there: {error.message}", remedy="It will be tried again."
            ) from error

    # Marks

    def _find(self, instance_id: str, server_id: str) -> Any:
        try:
            server = self._cloud.ask(lambda: self._cloud.sdk.compute.get_server(server_id))
        except NotFound:
            return None
        except GridcloudError as error:
            if isinstance(error, Rejected):
                raise
            return error
        # Of a machine in a cell that is down nova tells neither its marks nor what it does.
        known = server.status == "UNKNOWN" or self._is_ours(server, instance_id)
        return server if known and server.task_state != "deleting" else None

    def _mark(self, instance_id: str) -> str:
        return f"gridcloud {self._holder} {instance_id}"

    def _marked(self, description: str | None) -> str:
        words = (description or "").split(" ")
        return words[2] if len(words) == 3 and words[:2] == ["gridcloud", self._holder] else ""

    def _is_ours(self, server: Any, instance_id: str = "") -> bool:
        marks = server.metadata or {}
        ours = (marks.get("gridcloud-installation"), marks.get("gridcloud-provider"))
        said = marks.get("gridcloud-instance", "")
        return ours == (self._installation, self._provider) and bool(said) and said == (instance_id or said)

    def _ports(self, instance_id: str) -> list[Any]:
        return self._of(self._cloud.sdk.network.ports, instance_id)

    def _addresses(self, instance_id: str) -> list[Any]:
        return self._of(self._cloud.sdk.network.ips, instance_id)

    def _groups(self) -> list[Any]:
        return self._of(self._cloud.sdk.network.security_groups, SHARED)

    def _of(self, look: Any, instance_id: str) -> list[Any]:
        mark = self._mark(instance_id)
        found = look(project_id=self._cloud.project(), description=mark)
        return _by_age(one for one in found if one.description == mark)


def _plain(text: str) -> str:
    """Return what every cloud's database takes: older ones keep no letters beyond three bytes, none more than 255."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:255]


def _by_age(things: Any) -> list[Any]:
    return sorted(things, key=lambda one: (one.created_at or "", one.id))


def _fixed(port: Any) -> str:
    addresses = [str(one["ip_address"]) for one in port.fixed_ips or ()]
    return min(addresses, key=lambda one: ":" in one, default="")


def _address_of(server: Any) -> str:
    found = [one for addresses in (server.addresses or {}).values() for one in addresses]
    found.sort(key=lambda one: (one.get("OS-EXT-IPS:type") != "floating", one.get("version") != 4))
    return str(found[0]["addr"]) if found else ""
