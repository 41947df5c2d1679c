"""What room a cluster has: pure, from the documents of nodes, pods, quotas and limit ranges to shapes and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings, Toleration
from gridcloud.drivers.kubernetes_quantities import parse_amount, parse_cpus
from gridcloud.instances.matching import shortfall
from gridcloud.instances.model import Request, Shape, format_size

__all__ = ["Limits", "Node", "Quota", "read_limits", "read_nodes", "read_quotas"]

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A node that our pods may be put on: what one pod can have of it at most, and what of that is free."""

    name: str
    whole: Shape
    free: Shape
    gpu_label: str = ""
    pods: int = 1
    """How many more pods it takes."""

    def has_room(self, shape: Shape, disk: int = 0) -> bool:
        """Tell whether a pod of this shape fits now."""
        free = self.free
        return (
            self.pods > 0
            and shape.cpus <= free.cpus + 1e-6
            and shape.memory <= free.memory
            and shape.gpus <= free.gpus
            and disk <= free.disk
        )

    def can_serve(self, request: Request) -> bool:
        """Tell whether it could, were it empty."""
        return not shortfall(request, self.whole)


@dataclass(frozen=True, slots=True)
class Quota:
    """A ResourceQuota of the namespace: what it allows, and what is used of it, by resource."""

    name: str
    hard: Mapping[str, str]
    used: Mapping[str, str]

    def explain_full(self, needs: Mapping[str, float]) -> tuple[str, bool]:
        """Return why it does not allow this much more ("" where it does), and whether it ever could."""
        why, ever = [], True
        for resource, hard in self.hard.items():
            need = needs.get(resource.removeprefix("count/"), 0)
            most, used = parse_cpus(hard), parse_cpus(self.used.get(resource, "0"))
            if need and need > most - used + 1e-6:
                ever = ever and need <= most + 1e-6
                left, asked = _show(resource, max(most - used, 0)), _show(resource, need)
                why.append(f"{resource}: {left} of {_show(resource, most)} left, {asked} asked")
        return (f"quota {self.name} ({'; '.join(why)})" if why else "", ever)


@dataclass(frozen=True, slots=True)
class Limits:
    """What LimitRanges of the namespace say of one pod."""

    least: Shape = field(default_factory=lambda: Shape(cpus=0, memory=0))
    most: Mapping[str, float] = field(default_factory=dict)
    """By resource."""

    def explain_too_large(self, needs: Mapping[str, float]) -> str:
        """Return which limit forbids this shape; "" where none does."""
        over = [
            f"{resource}: {_show(resource, most)} at most, {_show(resource, needs[resource])} asked"
            for resource, most in self.most.items()
            if needs.get(resource, 0) > most + 1e-6
        ]
        return f"limit range ({'; '.join(over)})" if over else ""


def read_nodes(
    nodes: Iterable[Document], pods: Iterable[Document], settings: KubernetesSettings
) -> list[Node]:
    """Return the nodes that our pods may be put on, with what is free there."""
    running: dict[str, list[Document]] = {}
    for pod in pods:
        place = pod["spec"].get("nodeName")
        if place and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            running.setdefault(place, []).append(pod)
    return [
        _read_node(node, running.get(node["metadata"]["name"], []), settings)
        for node in nodes
        if _may_be_used(node, settings)
    ]


def read_quotas(quotas: Iterable[Document], settings: KubernetesSettings) -> list[Quota]:
    """Return the quotas that count pods of ours."""
    found = []
    for quota in quotas:
        scopes = set(quota["spec"].get("scopes", ()))
        ours = {"NotBestEffort", "Terminating" if settings.longest else "NotTerminating"}
        if scopes - ours or quota["spec"].get("scopeSelector"):
            continue  # of priority classes and the like: the cluster itself says so when asked
        status = quota.get("status", {})
        hard = status.get("hard") or quota["spec"].get("hard", {})
        found.append(Quota(quota["metadata"]["name"], hard, status.get("used", {})))
    return found


def read_limits(ranges: Iterable[Document]) -> Limits:
    """Return the narrowest limits of all ranges."""
    least = {"cpu": 0.0, "memory": 0.0}
    most: dict[str, float] = {}
    for document in ranges:
        for item in document["spec"].get("limits", ()):
            if item.get("type") not in ("Container", "Pod"):
                continue
            for resource, amount in (item.get("min") or {}).items():
                if resource in least:
                    least[resource] = max(least[resource], parse_cpus(amount))
            for resource, amount in (item.get("max") or {}).items():
                most[resource] = min(most.get(resource, float("inf")), parse_cpus(amount))
    return Limits(Shape(cpus=least["cpu"], memory=int(least["memory"])), most)


def _read_node(node: Document, pods: Sequence[Document], settings: KubernetesSettings) -> Node:
    there, labels = node["status"].get("allocatable", {}), node["metadata"].get("labels", {})
    names = ("cpu", "memory", "ephemeral-storage", settings.gpu_resource)
    own = dict.fromkeys(names, 0.0)
    taken = dict.fromkeys(names, 0.0)
    for pod in pods:
        for name, amount in _asked(pod).items():
            if name in taken:
                taken[name] += amount
                own[name] += amount if _belongs_to_node(pod) else 0

    def shape(less: Mapping[str, float]) -> Shape:
        left = {name: max(parse_cpus(there.get(name, "0")) - less[name], 0) for name in names}
        gpus = int(left[settings.gpu_resource])
        return Shape(
            cpus=round(left["cpu"], 3),
            memory=int(left["memory"]),
            disk=int(left["ephemeral-storage"]),
            gpus=gpus,
            gpu_model=labels.get(settings.gpu_model, "") if gpus else "",
            gpu_memory=_mebibytes(labels.get(settings.gpu_memory, "")) if gpus else 0,
        )

    whole = shape(own)
    most = {"cpus": settings.cpus or whole.cpus, "memory": settings.memory or whole.memory}
    whole = whole.model_copy(update={name: min(getattr(whole, name), value) for name, value in most.items()})
    return Node(
        name=node["metadata"]["name"],
        whole=whole,
        free=shape(taken),
        gpu_label=labels.get(settings.gpu_model, ""),
        pods=parse_amount(there.get("pods", "110")) - len(pods),
    )


def _asked(pod: Document) -> dict[str, float]:
    """What the scheduler counts for a pod: the sum of its containers, or what one that comes first needs if more."""
    total: dict[str, float] = dict(_amounts(pod["spec"].get("overhead") or {}))
    for container in pod["spec"].get("containers", ()):
        for name, amount in _amounts(container.get("resources", {}).get("requests") or {}).items():
            total[name] = total.get(name, 0) + amount
    for container in pod["spec"].get("initContainers") or ():
        for name, amount in _amounts(container.get("resources", {}).get("requests") or {}).items():
            total[name] = max(total.get(name, 0), amount)
    return total


def _amounts(quantities: Mapping[str, Any]) -> dict[str, float]:
    return {name: parse_cpus(text) for name, text in quantities.items()}


def _belongs_to_node(pod: Document) -> bool:
    """Tell whether every node has this pod, whatever else is there."""
    owners = {owner.get("kind") for owner in pod["metadata"].get("ownerReferences") or ()}
    return bool(owners & {"DaemonSet", "Node"})


def _may_be_used(node: Document, settings: KubernetesSettings) -> bool:
    labels = node["metadata"].get("labels", {})
    ready = {one["type"]: one["status"] for one in node["status"].get("conditions") or ()}.get("Ready")
    wanted = settings.node_selector.items()
    taints = node["spec"].get("taints") or ()
    return (
        not node["spec"].get("unschedulable")
        and ready == "True"
        and all(labels.get(key) == value for key, value in wanted)
        and all(
            taint.get("effect") == "PreferNoSchedule"
            or any(_tolerates(one, taint) for one in settings.tolerations)
            for taint in taints
        )
    )


def _tolerates(toleration: Toleration, taint: Mapping[str, str]) -> bool:
    return (
        (not toleration.effect or toleration.effect == taint.get("effect"))
        and (toleration.key == taint.get("key") or (not toleration.key and toleration.operator == "Exists"))
        and (toleration.operator == "Exists" or toleration.value == taint.get("value", ""))
    )


def _mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdecimal() else 0


def _show(resource: str, amount: float) -> str:
    if "memory" in resource or "storage" in resource:
        return format_size(int(amount))
    return f"{amount:g}"
