"""The network that the `oci` driver makes where none is named, and removes with the last machine.

A VCN with an internet gateway, a route to it, a security list that lets the ranges of `allow_from` reach port 22 and
nothing else in, and one subnet. Each part carries our tags and is found again by them, so every step may be repeated,
by two at once or after a crash at any point: what is there is taken, what is missing is made. Each is made with a retry
token that two who make it at once arrive at, so that it is made once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.drivers.oracle import ENDED, Wire, is_ours, make_once
from gridcloud.errors import Conflict, NotFound, Transient

__all__ = ["PARTS", "Network"]

PARTS = {
    "subnet": "subnet",
    "security_list": "security list",
    "route_table": "route table",
    "internet_gateway": "internet gateway",
    "vcn": "network",
}
"""What the network consists of, in the order in which it is removed."""


class Network:
    """The network of one provider. ``tags`` are on each part."""

    def __init__(self, wire: Wire, settings: OCISettings, tags: Mapping[str, str], name: str) -> None:
        self._wire = wire
        self._settings = settings
        self._tags = dict(tags)
        self._name = name
        self._changing = asyncio.Lock()
        self._subnet = ""

    async def subnet(self, compartment: str) -> str:
        """Return the id of the subnet; make what is missing. Raises Transient, Rejected, NotFound."""
        if not self._subnet:
            async with self._changing:
                self._subnet = self._subnet or await self._ensure(compartment)
        return self._subnet

    def forget(self) -> None:
        """Look again at the next use."""
        self._subnet = ""

    async def parts(self, compartment: str) -> list[tuple[str, Any]]:
        """Return what there is of ours, with its kind, in the order in which it is removed."""
        found: list[tuple[str, Any]] = []
        for vcn in await self._ours("vcn", compartment):
            for kind in PARTS:
                ours = [vcn] if kind == "vcn" else await self._ours(kind, compartment, vcn.id)
                found += [(kind, one) for one in ours]
        return found

    async def remove(self, compartment: str) -> None:
        """Remove all of it. Raises Transient where something still uses it: it stays whole then, or is mended by
        the next who needs it."""
        async with self._changing:
            self.forget()
            for kind, part in await self.parts(compartment):
                try:
                    await self._wire.call("network", f"delete_{kind}", part.id)
                except NotFound as error:
                    await self._wire.see_gone(error, "network", f"get_{kind}", part.id)
                except Conflict as error:
                    raise Transient(
                        f"The {PARTS[kind]} {part.id} is still in use: {error.message}",
                        remedy="Try again later.",
                    ) from error

    async def _ensure(self, compartment: str) -> str:
        from oci.core import models

        settings, named = self._settings, {"compartment_id": compartment}
        vcn = await self._one(
            "vcn",
            compartment,
            "",
            lambda: models.CreateVcnDetails(**named, cidr_block=settings.address_range),
        )
        inside = {**named, "vcn_id": vcn.id}
        gateway = await self._one(
            "internet_gateway",
            compartment,
            vcn.id,
            lambda: models.CreateInternetGatewayDetails(**inside, is_enabled=True),
        )
        out = models.RouteRule(
            destination="0.0.0.0/0", destination_type="CIDR_BLOCK", network_entity_id=gateway.id
        )
        table = await self._one(
            "route_table",
            compartment,
            vcn.id,
            lambda: models.CreateRouteTableDetails(**inside, route_rules=[out]),
        )
        rules = _rules(settings.allow_from)
        doors = await self._one(
            "security_list",
            compartment,
            vcn.id,
            lambda: models.CreateSecurityListDetails(**inside, **rules),
        )
        if {rule.source for rule in doors.ingress_security_rules or ()} != set(settings.allow_from):
            await self._wire.call(
                "network", "update_security_list", doors.id, models.UpdateSecurityListDetails(**rules)
            )
        subnet = await self._one(
            "subnet",
            compartment,
            vcn.id,
            lambda: models.CreateSubnetDetails(
                **inside,
                cidr_block=_first_part(settings.address_range),
                route_table_id=table.id,
                security_list_ids=[doors.id],
                prohibit_public_ip_on_vnic=False,
            ),
        )
        return str(subnet.id)

    async def _one(self, kind: str, compartment: str, vcn: str, details: Callable[[], Any]) -> Any:
        """Return the part of this kind, made where there is none."""
        found = await self._ours(kind, compartment, vcn)
        if found:
            part = found[0]
        else:
            wanted = details()
            wanted.display_name = self._name
            wanted.freeform_tags = self._tags
            part = await make_once(self._wire, "network", f"create_{kind}", wanted, self._name)
        for _ in range(40):
            if part.lifecycle_state not in {"PROVISIONING", "UPDATING"}:
                return part
            await asyncio.sleep(0.5)
            part = await self._wire.call("network", f"get_{kind}", part.id)
        raise Transient(f"The {PARTS[kind]} {part.id} is not made yet.", remedy="Try again.")

    async def _ours(self, kind: str, compartment: str, vcn: str = "") -> list[Any]:
        """Return our parts of a kind that are there, the oldest first."""
        within = {"vcn_id": vcn} if vcn else {}
        found = await self._wire.pages("network", f"list_{kind}s", compartment, **within)
        ours = [one for one in found if is_ours(one, self._tags) and one.lifecycle_state not in ENDED]
        return sorted(ours, key=lambda one: (str(one.time_created or ""), one.id))


def _rules(allow_from: Sequence[str]) -> dict[str, Any]:
    from oci.core import models

    ssh = models.TcpOptions(destination_port_range=models.PortRange(min=22, max=22))
    ingress = [
        models.IngressSecurityRule(
            protocol="6", source=one, source_type="CIDR_BLOCK", tcp_options=ssh, description="SSH"
        )
        for one in allow_from
    ]
    egress = [
        models.EgressSecurityRule(protocol="all", destination="0.0.0.0/0", destination_type="CIDR_BLOCK")
    ]
    return {"ingress_security_rules": ingress, "egress_security_rules": egress}


def _first_part(text: str) -> str:
    """Return the first /20 of a range, or all of a smaller one: what is left may be used by others."""
    whole = ipaddress.ip_network(text)
    return str(next(whole.subnets(new_prefix=max(20, whole.prefixlen))))
