"""The networks of `tests.labs.oracle`: what refers to what, and so cannot be deleted before it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from oci.core import models

from tests.labs.oracle_tenancy import Call, Refusal, Route, Tenancy, Thing, not_found

__all__ = ["ROUTES"]

PARTS = ("internetgateway", "routetable", "securitylist", "subnet")


def _make_vcn(call: Call) -> dict[str, Any]:
    body = dict(call.body)
    compartment = call.compartment(body["compartmentId"])
    blocks = body.get("cidrBlocks") or [body["cidrBlock"]]
    for block in blocks:
        if not 16 <= ipaddress.ip_network(block).prefixlen <= 30:
            raise Refusal(400, "InvalidParameter", f"The CIDR block {block} is not between /16 and /30.")
    kept = {key: body[key] for key in ("displayName", "freeformTags", "dnsLabel") if key in body}
    words = {"compartmentId": compartment, "cidrBlock": blocks[0], "cidrBlocks": blocks, **kept}
    vcn = call.tenancy.add("vcn", {**words, "lifecycleState": "AVAILABLE"})
    for kind, key in (("routetable", "defaultRouteTableId"), ("securitylist", "defaultSecurityListId")):
        rules: dict[str, Any] = (
            {"routeRules": []}
            if kind == "routetable"
            else {"ingressSecurityRules": [], "egressSecurityRules": []}
        )
        of_vcn = {"vcnId": vcn.id, "compartmentId": compartment, "lifecycleState": "AVAILABLE"}
        part = call.tenancy.add(kind, {**of_vcn, "displayName": "Default", **rules}, default=True)
        vcn.words[key] = part.id
    return vcn.words


def _make(kind: str) -> Callable[[Call], dict[str, Any]]:
    def work(call: Call) -> dict[str, Any]:
        body = dict(call.body)
        call.compartment(body["compartmentId"])
        vcn = call.tenancy.things.get(body["vcnId"])
        if vcn is None or vcn.kind != "vcn" or not vcn.lives:
            raise not_found("vcn")
        if kind == "internetgateway" and any(_live(call.tenancy, kind, vcn.id)):
            raise Refusal(400, "LimitExceeded", "A VCN has one internet gateway at most.")
        if kind == "subnet":
            _check_subnet(call, vcn, body)
        for rule in body.get("routeRules", ()):
            _need(call, "internetgateway", rule["networkEntityId"])
        return call.tenancy.add(kind, {**body, "lifecycleState": "AVAILABLE"}).words

    return work


def _check_subnet(call: Call, vcn: Thing, body: dict[str, Any]) -> None:
    block = ipaddress.ip_network(body["cidrBlock"])
    whole = ipaddress.ip_network(vcn.words["cidrBlock"])
    if block.version != whole.version or not block.subnet_of(whole):  # type: ignore[arg-type]
        raise Refusal(400, "InvalidParameter", f"The CIDR block {block} is not within the VCN's.")
    for other in _live(call.tenancy, "subnet", vcn.id):
        if block.overlaps(ipaddress.ip_network(other.words["cidrBlock"])):
            raise Refusal(400, "InvalidParameter", f"The CIDR block {block} overlaps with {other.id}.")
    body.setdefault("routeTableId", vcn.words["defaultRouteTableId"])
    body.setdefault("securityListIds", [vcn.words["defaultSecurityListId"]])
    body.setdefault("prohibitPublicIpOnVnic", False)
    body.update(virtualRouterIp=str(block[1]), virtualRouterMac="00:00:17:00:00:01")
    _need(call, "routetable", body["routeTableId"])
    for one in body["securityListIds"]:
        _need(call, "securitylist", one)


def _need(call: Call, kind: str, id_: str) -> None:
    thing = call.tenancy.things.get(id_)
    if thing is None or thing.kind != kind or not thing.lives:
        raise not_found(kind)


def _live(tenancy: Tenancy, kind: str, vcn: str) -> Iterator[Thing]:
    return (one for one in tenancy.of(kind, vcnId=vcn) if one.lives)


def _list(kind: str) -> Callable[[Call], list[dict[str, Any]]]:
    def work(call: Call) -> list[dict[str, Any]]:
        compartment = call.compartment(call.need("compartmentId"))
        name, vcn = call.query.get("displayName"), call.query.get("vcnId")
        return [
            one.words
            for one in call.tenancy.of(kind, compartmentId=compartment)
            if one.lives
            and name in (None, one.words.get("displayName"))
            and vcn in (None, one.words.get("vcnId"))
        ]

    return work


def _show(kind: str) -> Callable[[Call], dict[str, Any]]:
    def work(call: Call) -> dict[str, Any]:
        thing = call.thing(kind)
        if not thing.lives:
            raise not_found(kind)
        return thing.words

    return work


def _change(kind: str) -> Callable[[Call], dict[str, Any]]:
    def work(call: Call) -> dict[str, Any]:
        thing = call.thing(kind)
        if not thing.lives:
            raise not_found(kind)
        for rule in call.body.get("routeRules") or ():
            _need(call, "internetgateway", rule["networkEntityId"])
        thing.words.update(call.body)
        return thing.words

    return work


def _delete(kind: str) -> Callable[[Call], None]:
    def work(call: Call) -> None:
        thing = call.thing(kind)
        if not thing.lives:
            raise not_found(kind)
        if thing.hidden.get("default"):
            raise Refusal(409, "IncorrectState", "What a VCN is made with cannot be deleted.")
        for user in _users(call.tenancy, thing):
            raise Refusal(
                409,
                "Conflict",
                f"The {kind} {thing.id} references the {user.kind} {user.id}. You must remove the reference "
                "to proceed with this operation.",
            )
        thing.become("TERMINATED")
        if kind == "vcn":
            for part in ("routetable", "securitylist"):
                for one in _live(call.tenancy, part, thing.id):
                    one.become("TERMINATED")

    return work


def _users(tenancy: Tenancy, thing: Thing) -> Iterator[Thing]:
    """Yield what must go before this can."""
    if thing.kind == "vcn":
        for kind in PARTS:
            yield from (one for one in _live(tenancy, kind, thing.id) if not one.hidden.get("default"))
    elif thing.kind == "subnet":
        yield from (one for one in tenancy.of("vnic", subnetId=thing.id) if one.lives)
    elif thing.kind == "internetgateway":
        for table in _live(tenancy, "routetable", thing.words["vcnId"]):
            if any(rule["networkEntityId"] == thing.id for rule in table.words["routeRules"]):
                yield table
    else:
        for subnet in _live(tenancy, "subnet", thing.words["vcnId"]):
            if thing.id in (subnet.words["routeTableId"], *subnet.words["securityListIds"]):
                yield subnet


def _list_addresses(call: Call) -> list[dict[str, Any]]:
    compartment = call.compartment(call.need("compartmentId"))
    call.need("scope")
    return [one.words for one in call.tenancy.of("publicip", compartmentId=compartment) if one.lives]


def _delete_address(call: Call) -> None:
    call.thing("publicip").become("TERMINATED")


def _routes(kind: str, path: str, model: str, make: Callable[[Call], Any] | None = None) -> tuple[Route, ...]:
    gives = getattr(models, model)
    base = f"/20160918/{path}"
    return (
        Route("POST", base, make or _make(kind), getattr(models, f"Create{model}Details"), gives),
        Route("GET", base, _list(kind), gives=gives),
        Route("GET", f"{base}/{{id}}", _show(kind), gives=gives),
        Route("PUT", f"{base}/{{id}}", _change(kind), getattr(models, f"Update{model}Details"), gives),
        Route("DELETE", f"{base}/{{id}}", _delete(kind)),
    )


ROUTES = (
    *_routes("vcn", "vcns", "Vcn", _make_vcn),
    *_routes("internetgateway", "internetGateways", "InternetGateway"),
    *_routes("routetable", "routeTables", "RouteTable"),
    *_routes("securitylist", "securityLists", "SecurityList"),
    *_routes("subnet", "subnets", "Subnet"),
    Route("GET", "/20160918/publicIps", _list_addresses, gives=models.PublicIp),
    Route("DELETE", "/20160918/publicIps/{id}", _delete_address),
)
