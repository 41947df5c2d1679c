"""The boot volumes of Oracle's machines: found again, also where their machine went before they had our tags.

Launching a machine puts no tags on its boot volume, and the volume is there only a while later. So it is tagged once
the machine runs; until then what says that it is ours is what ties it to the machine: the attachment, and the name that
Oracle gives it. A machine that has ended is listed with its tags for twelve hours at least (how long its attachments
are is not said).
Source: https://docs.oracle.com/iaas/tools/oci-cli/latest/oci_cli_docs/cmdref/compute/instance/terminate.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.drivers.oracle import ENDED, Wire, gather, is_ours
from gridcloud.errors import NotFound

__all__ = ["Disks"]

SUFFIX = " (Boot Volume)"
"""What Oracle puts after a machine's name to name its boot volume."""


class Disks:
    """The boot volumes of one provider. ``tags`` are on each; ``instance`` is the tag that names whose it is, and each
    machine's name is ``prefix`` and that."""

    def __init__(self, wire: Wire, tags: Mapping[str, str], instance: str, prefix: str) -> None:
        self._wire = wire
        self._tags = dict(tags)
        self._instance = instance
        self._prefix = prefix

    async def left(self, compartment: str, instance_id: str = "") -> list[tuple[str, Any]]:
        """Return our boot volumes that no machine has, each with the id of its instance; those of one instance, or
        of all. One that belongs to a machine goes with it."""
        listed = await self._wire.pages("storage", "list_boot_volumes", compartment_id=compartment)
        wanted = [
            one for one in listed if one.lifecycle_state not in ENDED and self._may_be(one, instance_id)
        ]
        if not wanted:
            return []
        attachments = await self._attachments(compartment, wanted)
        held = {one.boot_volume_id for one in attachments if one.lifecycle_state != "DETACHED"}
        free = [one for one in wanted if one.id not in held]
        owners = await self._owners(compartment, free, attachments)
        return [(owners[one.id], one) for one in free if one.id in owners]

    async def delete(self, volume: Any) -> None:
        """Remove a boot volume; one that is gone is removed. Raises Transient where it is still there."""
        try:
            await self._wire.call("storage", "delete_boot_volume", volume.id)
        except NotFound as error:
            await self._wire.see_gone(error, "storage", "get_boot_volume", volume.id)

    async def tag(self, machine: Any) -> None:
        """Put our tags on the boot volume of a machine that runs."""
        from oci.core import models

        tags = {**self._tags, self._instance: machine.freeform_tags[self._instance]}
        for one in await self._wire.pages(
            "compute",
            "list_boot_volume_attachments",
            machine.availability_domain,
            machine.compartment_id,
            instance_id=machine.id,
        ):
            details = models.UpdateBootVolumeDetails(freeform_tags=tags)
            await self._wire.call("storage", "update_boot_volume", one.boot_volume_id, details)

    def _may_be(self, volume: Any, instance_id: str) -> bool:
        """Return whether a volume has our tags, or none of a gridcloud's but a name as our machines' volumes have."""
        carried = volume.freeform_tags or {}
        if self._instance in carried:
            return is_ours(volume, self._tags) and instance_id in ("", carried[self._instance])
        name = str(volume.display_name or "")
        if instance_id:
            return name == f"{self._prefix}{instance_id}{SUFFIX}"
        return name.startswith(self._prefix) and name.endswith(SUFFIX)

    async def _attachments(self, compartment: str, volumes: list[Any]) -> list[Any]:
        """Return what ties volumes to machines, or tied them: of one volume, or of the domains that they are in."""
        domains = sorted({str(one.availability_domain) for one in volumes})
        only = {"boot_volume_id": volumes[0].id} if len(volumes) == 1 else {}
        operation = "list_boot_volume_attachments"
        pages = await gather(
            *(self._wire.pages("compute", operation, one, compartment, **only) for one in domains)
        )
        return [one for page in pages for one in page]

    async def _owners(self, compartment: str, volumes: list[Any], attachments: list[Any]) -> dict[str, str]:
        """Return whose each volume is, by the volume's id: what its tags say, or those of the machine that had it."""
        owners = {
            one.id: str(one.freeform_tags[self._instance])
            for one in volumes
            if self._instance in (one.freeform_tags or {})
        }
        unknown = {one.id: one for one in volumes if one.id not in owners}
        if not unknown:
            return owners
        listed = await self._wire.pages("compute", "list_instances", compartment)
        machines = {
            one.id: one for one in listed if is_ours(one, self._tags) and self._instance in one.freeform_tags
        }
        for one in attachments:
            volume, machine = unknown.get(one.boot_volume_id), machines.get(one.instance_id)
            if volume is None or machine is None:
                continue
            # A volume that somebody put into our machine afterwards has a name of its own.
            owner = str(machine.freeform_tags[self._instance])
            if volume.display_name == f"{self._prefix}{owner}{SUFFIX}":
                owners[volume.id] = owner
        return owners
