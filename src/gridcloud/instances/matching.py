"""Rank offers against a request, and say in words why none will do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from gridcloud.errors import NoOffer
from gridcloud.instances.model import Offer, Request, Shape, format_size

__all__ = [
    "BUDGET",
    "count_cpus",
    "describe",
    "describe_price",
    "explain",
    "limit",
    "measure",
    "place_of",
    "rank",
    "require",
    "shortfall",
    "standing",
    "surplus",
    "surplus_of",
    "unnamed",
    "unserved",
]

BUDGET = "Budget"
"""What an offer was refused with that a budget forbids: no error of a provider."""


def shortfall(request: Request, shape: Shape) -> str:
    """Return what the shape lacks for the request, in words; empty when it fits."""
    lacks = []
    if shape.cpus < request.cpus:
        lacks.append(f"{count_cpus(request.cpus)} asked, {shape.cpus:g} at most")
    if shape.memory < request.memory:
        lacks.append(f"{format_size(request.memory)} of memory asked, {format_size(shape.memory)} at most")
    if shape.disk and shape.disk < request.disk:
        lacks.append(f"{format_size(request.disk)} of disk asked, {format_size(shape.disk)} at most")
    if shape.gpus < request.gpus:
        lacks.append(f"{request.gpus} GPUs asked, {shape.gpus} at most")
    if request.gpus and request.gpu_model.lower() not in shape.gpu_model.lower():
        lacks.append(f"GPU model {request.gpu_model} asked, {shape.gpu_model or 'none'} there")
    if request.gpus and shape.gpu_memory and shape.gpu_memory < request.gpu_memory:
        lacks.append(
            f"{format_size(request.gpu_memory)} per GPU asked, {format_size(shape.gpu_memory)} at most"
        )
    return "; ".join(lacks)


def measure(shape: Shape) -> tuple[float, float, float, float, float]:
    """Return what a shape has of what requests ask for in numbers; infinity where it does not say how much."""
    disk, memory = shape.disk or math.inf, shape.gpu_memory or math.inf
    return shape.cpus, shape.memory, disk, shape.gpus, memory


def require(request: Request) -> tuple[float, float, float, float, float]:
    """Return what `measure` of a shape must reach, each number for itself, for the shape to lack nothing."""
    memory = request.gpu_memory if request.gpus else 0
    return request.cpus, request.memory, request.disk, request.gpus, memory


def describe_price(price: Decimal, currency: str) -> str:
    """Return what something costs, for people: ``0.5 EUR per hour``."""
    return f"{price.normalize():f} {currency} per hour"


def rank(request: Request, offers: Iterable[Offer], currency: str) -> list[Offer]:
    """Return all offers, best first: free ones by distance, price, wait and least left over; then the others.

    Those that pass the request's limits (provider, price, location, kind) but not more are marked as unavailable;
    ``currency`` is that of their prices.
    """
    return sorted(
        (limit(request, offer, currency) for offer in offers),
        key=lambda offer: (*standing(offer), *surplus_of(request, offer.shape), offer.provider),
    )


def limit(request: Request, offer: Offer, currency: str) -> Offer:
    """Return an offer as it is where it serves a request; else as what can't be had, with the reason."""
    if not offer.available:
        return offer
    why = ""
    if request.kind is not None and offer.kind is not request.kind:
        why = f"is a {offer.kind}, {request.kind} was asked"
    elif request.location and request.location.lower() not in place_of(offer):
        there = ", ".join(filter(None, (offer.institution, offer.location)))
        why = f"is in {there or 'no named location'}, {request.location} was asked"
    elif request.max_price is not None and offer.price > request.max_price:
        why = f"costs {describe_price(offer.price, currency)}, {request.max_price} at most was asked"
    elif lacking := shortfall(request, offer.shape):
        why = lacking
    return offer.model_copy(update={"available": False, "possible": False, "why_not": why}) if why else offer


def place_of(offer: Offer) -> str:
    """Return the words that a request's location is looked for in, in small letters."""
    return f"{offer.institution}\n{offer.location}".lower()


def standing(offer: Offer) -> tuple[bool, bool, int, bool, float, float]:
    """Return where an offer stands whatever is asked for, the best first."""
    free = (not offer.available, not offer.possible, offer.distance, not offer.priced)
    return (*free, float(offer.price), float(offer.wait))


def surplus(request: Request, cpus: float, memory: float, gpus: float) -> tuple[float, float]:
    """Return what is left over for a request, which grows with each number: of what stands alike the least is best."""
    return max(0, gpus - request.gpus), cpus / request.cpus + memory / max(request.memory, 1)


def surplus_of(request: Request, shape: Shape) -> tuple[float, float]:
    """Return what is left over of a shape."""
    return surplus(request, shape.cpus, shape.memory, shape.gpus)


def count_cpus(number: float) -> str:
    """Return a number of CPUs in words: ``1 CPU``, ``1.5 CPUs``."""
    return f"{number:g} CPU{'s' if number != 1 else ''}"


def describe(shape: Shape) -> str:
    """Return a shape in a few words."""
    words = [count_cpus(shape.cpus), format_size(shape.memory)]
    if shape.gpus:
        words.append(
            f"{shape.gpus} {shape.gpu_model or 'GPU'}"
            + (f" {format_size(shape.gpu_memory)}" if shape.gpu_memory else "")
        )
    return ", ".join(words)


def unnamed(provider: str, text: object) -> str:
    """Return what a provider's error says without the provider's name before it, for where that is said anyway."""
    return str(text).removeprefix(f"{provider}: ")


def explain(request: Request, offers: Sequence[Offer]) -> str:
    """Return one sentence on why none of the offers serves the request, naming the largest there is."""
    if not offers:
        if request.on:
            return f"No provider named {request.on!r} is configured."
        return "No provider is configured."
    if not any(offer.possible for offer in offers):
        reasons = "; ".join(f"{offer.provider}: {offer.why_not}" for offer in offers)
        largest = max(offers, key=lambda offer: _size(request, offer.shape))
        best = f" The largest available is {describe(largest.shape)} on {largest.provider}."
        return f"No provider can serve this request ({reasons})." + (
            best if _is_small(request, offers) else ""
        )
    found = (f"{offer.provider}: {offer.why_not or 'refused'}" for offer in offers if not offer.available)
    reasons = "; ".join(dict.fromkeys(found))
    if _is_forbidden(offers):
        return f"Nothing may be taken for this request ({reasons})."
    return f"Nothing is free for this request now ({reasons})."


def unserved(request: Request, offers: Sequence[Offer]) -> NoOffer:
    """Return the error for a request that none of the offers serves."""
    if offers and not any(offer.possible for offer in offers):
        if _is_small(request, offers):
            remedy = "Ask for less, or add a provider that has more."
        else:
            remedy = (
                "Ask for something else, or mend what is in the way: 'gridcloud provider check' shows more."
            )
    elif not offers:
        remedy = "See 'gridcloud provider list' and 'gridcloud provider add'."
    elif _is_forbidden(offers):
        remedy = "'gridcloud budget list' shows what you may use and what is left; an administrator sets the budgets."
    else:
        remedy = "Try again later, ask for less, or ask elsewhere: 'gridcloud offers' shows what is free."
    return NoOffer(explain(request, offers), remedy=remedy)


def _is_forbidden(offers: Sequence[Offer]) -> bool:
    """Return whether all that could serve are there, and a budget forbids each: no waiting for room mends that."""
    return all(offer.refusal == BUDGET for offer in offers if offer.possible)


def _is_small(request: Request, offers: Sequence[Offer]) -> bool:
    """Return whether any provider refused for its size: one that has no machine at all said something else."""
    return any(offer.shape.cpus and shortfall(request, offer.shape) for offer in offers)


def _size(request: Request, shape: Shape) -> tuple[int, float, int]:
    return (shape.gpus if request.gpus else 0, shape.cpus, shape.memory)
