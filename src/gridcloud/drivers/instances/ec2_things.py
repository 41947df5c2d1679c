"""What we hold at Amazon: found by our tags, removed one kind after the other. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from gridcloud.drivers.instances.ec2_batch import Batch
from gridcloud.drivers.instances.ec2_listing import Listing
from gridcloud.drivers.instances.ec2_wire import Wire, code_of
from gridcloud.errors import Conflict, InvalidSettings, NotFound, Transient
from gridcloud.instances.model import SHARED, Handle, Holding

__all__ = ["INSTALLATION", "INSTANCE", "PROVIDER", "Things"]

INSTALLATION, PROVIDER, INSTANCE = "gridcloud-installation", "gridcloud-provider", "gridcloud-instance"
LISTS = {
    "Volumes": "describe_volumes",
    "NetworkInterfaces": "describe_network_interfaces",
    "SpotInstanceRequests": "describe_spot_instance_requests",
    "SecurityGroups": "describe_security_groups",
}
MOST = 100
"""Machines that one call asks for by name."""
ENDED = ("shutting-down", "terminated")


class Things:
    """All that one installation holds through one provider."""

    def __init__(self, wire: Wire, installation: str, provider: str) -> None:
        self._wire = wire
        self._installation = installation
        self._provider = provider
        self._group = ""
        self._alive = Listing(self._read_alive)
        self._endings = Batch(self._terminate, MOST)
        self._lists = {key: Listing(partial(self._read, operation, key)) for key, operation in LISTS.items()}

    def tags(self, instance_id: str, name: str = "") -> list[dict[str, str]]:
        """Return the tags of something made for an instance; ``name`` is what its owner calls it."""
        words = {INSTALLATION: self._installation, PROVIDER: self._provider, INSTANCE: instance_id}
        shown = "".join(character for character in name if character.isprintable())[:100]
        words["Name"] = f"gridcloud {shown or instance_id}"
        return [{"Key": key, "Value": value[:256]} for key, value in words.items()]

    def find(self, machines: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return our machines by id: those that live, and of these ones also those that were terminated lately."""
        # A few are asked for by name; of many, those that live come in fewer pages all at once.
        many = len(machines) > MOST
        found = {one["InstanceId"]: one for one in self._alive.read()} if many else {}
        missing = [name for name in machines if name not in found]
        for start in range(0, len(missing), MOST):
            filters = [{"Name": "instance-id", "Values": missing[start : start + MOST]}]
            found |= {
                one["InstanceId"]: one for one in self._read_machines([*filters, *_filters(self._ours())])
            }
        return found

    def machines(self) -> list[dict[str, Any]]:
        """Return our machines that live."""
        return [one for one in self._alive.read() if one["State"]["Name"] not in ENDED]

    def machines_of(self, instance_id: str) -> list[dict[str, Any]]:
        """Return the machines made for an instance, the oldest first, terminated ones included."""
        filters = _filters({**self._ours(), INSTANCE: instance_id})
        found = [one for one in self._read_machines(filters) if _tags(one).get(INSTANCE) == instance_id]
        return sorted(found, key=lambda one: (one["LaunchTime"], one["InstanceId"]))

    def remove(self, instance_id: str, machine: str = "") -> None:
        """Remove all that was made for an instance. ``machine``: one that must be gone even if no listing shows it yet.

        Raises Transient when something is left.
        """
        there = self.machines_of(instance_id)
        ids = {one["InstanceId"] for one in there if one["State"]["Name"] not in ENDED}
        if machine and machine not in {one["InstanceId"] for one in there} and self._is_ours(machine):
            ids.add(machine)
        if ids:
            with contextlib.suppress(NotFound):
                self._wire.call("terminate_instances", InstanceIds=sorted(ids))
        for request in self._spot_requests(instance_id):
            self._wire.call(
                "cancel_spot_instance_requests", SpotInstanceRequestIds=[request["SpotInstanceRequestId"]]
            )
        for volume in self._loose("Volumes", instance_id):
            self._delete("delete_volume", f"the disk {volume['VolumeId']}", VolumeId=volume["VolumeId"])
        for interface in self._loose("NetworkInterfaces", instance_id):
            name = interface["NetworkInterfaceId"]
            self._delete("delete_network_interface", f"the interface {name}", NetworkInterfaceId=name)

    def end(self, machine: str) -> bool:
        """Terminate a machine that is known to be ours, and with it its disk and interface; return whether it was
        there."""
        try:
            self._endings.add(machine)
        except NotFound:
            return False
        return True

    def remove_shared(self) -> None:
        """Remove our security groups. Raises Transient while one of our machines lives, or still ends."""
        if machines := self.machines():
            raise Transient(f"{self._provider}: {len(machines)} machines still use the security group.")
        self._group = ""
        for group in self._groups():
            name = group["GroupId"]
            self._delete("delete_security_group", f"the security group {name}", GroupId=name)

    def group(self, vpc: Callable[[], str], allow_from: Sequence[str], again: bool) -> str:
        """Return the id of the security group that all our machines share, and make it where it is not there.

        ``again``: it was there a moment ago and is not any more.
        """
        if again:
            self._group = ""
        if not self._group:
            where = vpc()
            name = f"gridcloud-{hashlib.sha256(f'{self._installation}/{self._provider}'.encode()).hexdigest()[:16]}"
            found = [one for one in self._groups() if one["GroupName"] == name and one.get("VpcId") == where]
            self._group = str(found[0]["GroupId"]) if found else self._make_group(name, where)
            self._open(found[0] if found else {}, allow_from)
        return self._group

    def holdings(self) -> list[Holding]:
        """Return everything that carries our tags and has not ended."""
        found = [
            _holding(
                one,
                "machine",
                one["InstanceId"],
                one.get("LaunchTime"),
                Handle(data={"machine": one["InstanceId"]}),
            )
            for one in self.machines()
        ]
        for key, what, name in (
            ("Volumes", "disk", "VolumeId"),
            ("NetworkInterfaces", "network interface", "NetworkInterfaceId"),
        ):
            found += [_holding(one, what, one[name], one.get("CreateTime")) for one in self._loose(key)]
        found += [
            _holding(one, "spot request", one["SpotInstanceRequestId"]) for one in self._spot_requests()
        ]
        found += [_holding(one, "security group", one["GroupId"]) for one in self._groups()]
        return found

    # Parts ---------------------------------------------------------------------------------------------------

    def _terminate(self, machines: Sequence[str]) -> None:
        self._wire.call("terminate_instances", InstanceIds=list(machines))

    def _read_alive(self) -> Iterator[dict[str, Any]]:
        # Those that were terminated stay listed for an hour: after a lecture that is all one would read.
        states = ["pending", "running", "shutting-down", "stopping", "stopped"]
        filters = [*_filters(self._ours()), {"Name": "instance-state-name", "Values": states}]
        return self._read_machines(filters)

    def _read_machines(self, filters: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        words = self._ours()
        for reservation in self._wire.pages("describe_instances", "Reservations", Filters=list(filters)):
            for one in reservation["Instances"]:
                if words.items() <= _tags(one).items():
                    yield {**one, "OwnerId": reservation.get("OwnerId", "")}

    def _loose(self, key: str, instance_id: str = "") -> list[dict[str, Any]]:
        """Return disks or interfaces that no machine has: those it has go with it."""
        return [
            one
            for one in self._lists[key].read()
            if one.get("State", one.get("Status")) == "available"
            and instance_id in ("", _tags(one).get(INSTANCE))
        ]

    def _spot_requests(self, instance_id: str = "") -> list[dict[str, Any]]:
        return [
            one
            for one in self._lists["SpotInstanceRequests"].read()
            if one["State"] in ("open", "active") and instance_id in ("", _tags(one).get(INSTANCE))
        ]

    def _groups(self) -> list[dict[str, Any]]:
        return [one for one in self._lists["SecurityGroups"].read() if _tags(one).get(INSTANCE) == SHARED]

    def _read(self, operation: str, key: str) -> Iterator[dict[str, Any]]:
        """Yield what a listing has of ours, its tags under one name."""
        words = self._ours()
        for one in self._wire.pages(operation, key, Filters=_filters(words)):
            entry = {**one, "Tags": one.get("Tags") or one.get("TagSet") or []}
            # A cloud that only speaks the API may not know every filter.
            if words.items() <= _tags(entry).items():
                yield entry

    def _ours(self) -> dict[str, str]:
        return {INSTALLATION: self._installation, PROVIDER: self._provider}

    def _make_group(self, name: str, vpc: str) -> str:
        try:
            answer = self._wire.call(
                "create_security_group",
                GroupName=name,
                Description="SSH to machines of gridcloud; made and removed by it",
                VpcId=vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": self.tags(SHARED, name)}],
            )
            return str(answer["GroupId"])
        except Conflict as error:
            raise Transient(
                f"{self._provider}: there is a security group {name} that is not tagged as ours.",
                remedy="Remove it, or name security_groups of your own.",
            ) from error

    def _open(self, group: Mapping[str, Any], allow_from: Sequence[str]) -> None:
        """Let SSH in from where it is allowed, and from nowhere else."""
        there = {
            one.get("CidrIp") or one.get("CidrIpv6")
            for rule in group.get("IpPermissions", ())
            for one in (*rule.get("IpRanges", ()), *rule.get("Ipv6Ranges", ()))
        }
        for wanted, operation in (
            ([one for one in allow_from if one not in there], "authorize_security_group_ingress"),
            ([one for one in there if one and one not in allow_from], "revoke_security_group_ingress"),
        ):
            if wanted:
                try:
                    self._wire.call(operation, GroupId=self._group, IpPermissions=[_rule(wanted)])
                except InvalidSettings:
                    self._group = ""
                    raise
                except Conflict:
                    continue  # another has just done the same

    def _is_ours(self, machine: str) -> bool:
        try:
            found = self._wire.call("describe_instances", InstanceIds=[machine])["Reservations"]
        except NotFound:
            return False
        [one] = [one for entry in found for one in entry["Instances"]] or [{}]
        tags = _tags(one)
        return tags.get(INSTALLATION) == self._installation and one["State"]["Name"] not in ENDED

    def _delete(self, operation: str, what: str, **words: Any) -> None:
        try:
            self._wire.call(operation, **words)
        except NotFound:
            return
        except Conflict as error:
            raise Transient(f"{self._provider}: {what} is still in use.") from error
        except InvalidSettings as error:
            if code_of(error) != "InvalidGroup.NotFound":
                raise


def _filters(words: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{name}", "Values": [value]} for name, value in words.items()]


def _rule(ranges: Sequence[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    old = [{"CidrIp": one, "Description": "SSH"} for one in ranges if ":" not in one]
    new = [{"CidrIpv6": one, "Description": "SSH"} for one in ranges if ":" in one]
    return rule | ({"IpRanges": old} if old else {}) | ({"Ipv6Ranges": new} if new else {})


def _tags(entry: Mapping[str, Any]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in entry.get("Tags", ())}


def _holding(
    entry: Mapping[str, Any],
    what: str,
    name: str,
    created: datetime | None = None,
    handle: Handle | None = None,
) -> Holding:
    return Holding(
        instance_id=_tags(entry).get(INSTANCE, ""), what=what, name=name, created=created, handle=handle
    )
