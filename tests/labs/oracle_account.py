"""Who the customer of `tests.labs.oracle` is and what the service limits leave: identity and limits."""

from __future__ import annotations

from typing import Any

from oci.identity import models as identity
from oci.limits import models as limits

from tests.labs.oracle_compute import used
from tests.labs.oracle_tenancy import Call, Route, not_found

__all__ = ["ROUTES"]


def _list_domains(call: Call) -> list[dict[str, Any]]:
    compartment = call.compartment(call.need("compartmentId"))
    return [{"name": name, "id": name, "compartmentId": compartment} for name in call.tenancy.domains]


def _list_compartments(call: Call) -> list[dict[str, Any]]:
    call.need("compartmentId")
    allowed = call.user.compartments
    return [
        {"id": id_, "compartmentId": call.tenancy.id, "name": name, "lifecycleState": "ACTIVE"}
        for id_, name in call.tenancy.compartments.items()
        if id_ != call.tenancy.id
        and (allowed is None or id_ in allowed)
        and call.query.get("name", name) == name
    ]


def _show_compartment(call: Call) -> dict[str, Any]:
    compartment = call.compartment(call.parts["id"])
    name = call.tenancy.compartments[compartment]
    return {"id": compartment, "compartmentId": call.tenancy.id, "name": name, "lifecycleState": "ACTIVE"}


def _list_regions(call: Call) -> list[dict[str, Any]]:
    if call.parts["id"] != call.tenancy.id:
        raise not_found()
    words = {"regionKey": "FRA", "regionName": call.tenancy.region, "status": "READY", "isHomeRegion": True}
    return [words]


def _show_availability(call: Call) -> dict[str, Any]:
    name = call.parts["limit"]
    if call.parts["service"] != "compute" or name not in call.tenancy.limits:
        raise not_found()
    taken = used(call.tenancy, name, call.need("availabilityDomain"))
    return {"used": taken, "available": max(0, call.tenancy.limits[name] - taken)}


ROUTES = (
    Route("GET", "/20160918/availabilityDomains", _list_domains, gives=identity.AvailabilityDomain),
    Route("GET", "/20160918/compartments", _list_compartments, gives=identity.Compartment),
    Route("GET", "/20160918/compartments/{id}", _show_compartment, gives=identity.Compartment),
    Route(
        "GET",
        "/20160918/tenancies/{id}/regionSubscriptions",
        _list_regions,
        gives=identity.RegionSubscription,
    ),
    Route(
        "GET",
        "/20190729/services/{service}/limits/{limit}/resourceAvailability",
        _show_availability,
        gives=limits.ResourceAvailability,
    ),
)
