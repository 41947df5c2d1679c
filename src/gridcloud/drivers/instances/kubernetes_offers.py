"""What a cluster offers for a request: pure, from what was read of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from gridcloud.drivers.instances.kubernetes_capacity import Limits, Node, Quota
from gridcloud.drivers.instances.kubernetes_manifests import LEAST_MEMORY, resources
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.drivers.kubernetes_pods import explain_image
from gridcloud.drivers.kubernetes_quantities import parse_cpus
from gridcloud.instances.matching import describe, shortfall
from gridcloud.instances.model import Kind, Offer, Request, Shape, Step

__all__ = ["Room", "choose", "needs_of"]


@dataclass(frozen=True, slots=True)
class Room:
    """What was read of a cluster. ``nodes`` is None where they may not be listed."""

    place: str
    """Context and namespace, in words."""
    nodes: Sequence[Node] | None
    quotas: Sequence[Quota] = ()
    limits: Limits = field(default_factory=Limits)


def choose(request: Request, settings: KubernetesSettings, provider: str, room: Room) -> list[Offer]:
    """Return offers as `InstanceDriver.offers` does: one, or one for each GPU model that serves."""
    image = request.image or settings.image
    largest = _largest(request, settings, room)
    why = explain_image(image, settings)
    shape = _shape(request, room.limits)
    needs = needs_of(shape, settings, request.disk)
    fitting = [node for node in room.nodes or () if node.can_serve(request)]
    if not why and room.nodes is not None and not fitting:
        why = shortfall(request, largest) or "no one node has all of it"
    why = why or shortfall(request, largest) or room.limits.explain_too_large(needs)
    quotas = [quota.explain_full(needs) for quota in room.quotas]
    why = why or "; ".join(words for words, ever in quotas if not ever)
    if why:
        made = Offer(
            provider=provider, kind=Kind.CONTAINER, shape=largest, location=settings.location, image=image
        )
        return [made.model_copy(update={"possible": False, "available": False, "why_not": why})]
    full = "; ".join(words for words, _ in quotas if words)
    labels = sorted({node.gpu_label for node in fitting}) if request.gpus and fitting else [""]
    offers = [_offer(request, settings, provider, room, shape, label, full) for label in labels]
    return sorted(offers, key=lambda offer: not offer.available)


def needs_of(shape: Shape, settings: KubernetesSettings, disk: int = 0) -> dict[str, float]:
    """Return what a pod of this shape takes, by every name that a quota or limit may count it under."""
    needs: dict[str, float] = {"pods": 1}
    for name, amount in resources(shape, settings.gpu_resource, disk).items():
        for word in (name, f"requests.{name}", f"limits.{name}"):
            needs[word] = parse_cpus(amount)
    return needs


def _offer(
    request: Request,
    settings: KubernetesSettings,
    provider: str,
    room: Room,
    shape: Shape,
    label: str,
    full: str,
) -> Offer:
    """The offer on nodes whose GPUs have one label; all nodes where none are asked for."""
    nodes = [node for node in room.nodes or () if node.can_serve(request)]
    if request.gpus:
        nodes = [node for node in nodes if node.gpu_label == label]
        best = nodes[0].whole if nodes else shape
        shape = shape.model_copy(update={"gpu_model": best.gpu_model, "gpu_memory": best.gpu_memory})
    free = [node for node in nodes if node.has_room(shape, request.disk)]
    why = full or ("" if free or room.nodes is None else _explain_nodes(nodes))
    image = request.image or settings.image
    asked = "asked for" if request.image else "the provider's default"
    return Offer(
        provider=provider,
        kind=Kind.CONTAINER,
        shape=shape,
        location=settings.location,
        image=image,
        price=_price(shape, settings, _largest(request, settings, room)),
        available=not why or (bool(settings.queue) and not full),
        wait=settings.queue if why and not full else 0,
        why_not=why,
        choice={"gpu_label": label} if label else {},
        steps=(
            Step(step="image", chosen=image, why=asked),
            Step(step="shape", chosen=describe(shape), why=_explain_shape(nodes, free, room)),
            Step(step="location", chosen=room.place, why="the provider's own"),
            Step(
                step="network",
                chosen="pod network",
                why="reached through the cluster's API; no port is published",
            ),
        ),
    )


def _shape(request: Request, limits: Limits) -> Shape:
    return Shape(
        cpus=max(request.cpus, limits.least.cpus),
        memory=max(request.memory, limits.least.memory, LEAST_MEMORY),
        disk=request.disk,
        gpus=request.gpus,
        gpu_model=request.gpu_model if request.gpus else "",
        gpu_memory=request.gpu_memory if request.gpus else 0,
    )


def _largest(request: Request, settings: KubernetesSettings, room: Room) -> Shape:
    """The largest pod there can ever be: the best node's, within quotas and limit ranges."""
    if room.nodes:
        serving = [node.whole for node in room.nodes if node.can_serve(request)]
        shapes = serving or [node.whole for node in room.nodes]
        shape = max(shapes, key=lambda one: (one.gpus if request.gpus else 0, one.cpus, one.memory))
    elif room.nodes is not None:
        shape = Shape(cpus=0, memory=0)
    else:
        # Nodes are not told of: whatever is asked, within what else is known.
        shape = _shape(request, room.limits)
        most = {"cpus": settings.cpus, "memory": settings.memory}
        shape = shape.model_copy(update={name: value for name, value in most.items() if value is not None})
    for name, resource in (("cpus", "cpu"), ("memory", "memory"), ("gpus", settings.gpu_resource)):
        for most_allowed in _bounds(resource, room):
            kept = min(float(getattr(shape, name)), most_allowed)
            shape = shape.model_copy(update={name: kept if name == "cpus" else int(kept)})
    return shape


def _bounds(resource: str, room: Room) -> Iterable[float]:
    if resource in room.limits.most:
        yield room.limits.most[resource]
    for quota in room.quotas:
        for name in (resource, f"requests.{resource}", f"limits.{resource}"):
            if name in quota.hard:
                yield parse_cpus(quota.hard[name])


def _price(shape: Shape, settings: KubernetesSettings, largest: Shape) -> Decimal:
    """Per hour: its part of the largest node's price, and the prices of its resources."""
    part = max(
        shape.cpus / largest.cpus if largest.cpus else 1,
        shape.memory / largest.memory if largest.memory else 1,
        shape.gpus / largest.gpus if largest.gpus else 0,
    )
    price = settings.price * Decimal(min(part, 1))
    price += settings.price_cpu * Decimal(shape.cpus) + settings.price_gpu * shape.gpus
    price += settings.price_memory * Decimal(shape.memory) / 2**30
    return price.quantize(Decimal("0.0001"))


def _explain_nodes(nodes: Sequence[Node]) -> str:
    best = max(nodes, key=lambda node: (node.free.gpus, node.free.cpus, node.free.memory))
    words = f"{describe(best.free)} free on {best.name}"
    if best.pods <= 0:
        words += ", which takes no more pods"
    return words if len(nodes) == 1 else f"of {len(nodes)} nodes none has room: most is {words}"


def _explain_shape(nodes: Sequence[Node], free: Sequence[Node], room: Room) -> str:
    why = "as asked: requests and limits are the same, so nothing is overcommitted"
    if room.nodes is None:
        return f"{why}; nodes may not be listed, so whether there is room shows when it is tried"
    return f"{why}; {len(free)} of {len(nodes)} nodes that could have it have room"
