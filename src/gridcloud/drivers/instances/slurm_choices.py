"""Which partition serves a request: what it may have by its limits, and when Slurm says that it would start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.drivers.slurm_words import MEBI, Node, Partition, format_time
from gridcloud.instances.matching import shortfall
from gridcloud.instances.model import Kind, Offer, Request, Shape

__all__ = ["Choice", "choose", "largest", "resources"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A partition for a request: what is asked of Slurm, or why nothing can be."""

    partition: str
    shape: Shape
    minutes: str = ""
    """Time limit; empty: the partition's own."""
    gres: str = ""
    why_not: str = ""

    def offer(self, provider: str, settings: SlurmSettings, *, why_not: str = "", wait: int = 0) -> Offer:
        """Return it as an offer; ``why_not``: why it cannot be had now."""
        return Offer(
            provider=provider,
            kind=Kind.BARE_METAL,
            shape=self.shape,
            location=" ".join(filter(None, (settings.location, self.partition))),
            price=settings.price,
            possible=not self.why_not,
            available=not (self.why_not or why_not),
            why_not=self.why_not or why_not,
            wait=wait,
            choice={"partition": self.partition, "minutes": self.minutes, "gres": self.gres},
        )


def choose(
    request: Request,
    partitions: Iterable[Partition],
    nodes: Sequence[Node],
    settings: SlurmSettings,
    root: bool,
) -> list[Choice]:
    """Return a choice for each partition that may be used at all, the default one first."""
    wanted = frozenset(settings.partitions)
    known = sorted(
        (one for one in partitions if not wanted or one.name in wanted), key=lambda one: not one.default
    )
    return [
        _choose(request, one, [node for node in nodes if one.name in node.partitions], settings, root)
        for one in known
    ]


def largest(choices: Sequence[Choice], request: Request) -> Choice | None:
    """Return the choice with the most of what was asked for."""
    return max(
        choices,
        key=lambda one: (one.shape.gpus if request.gpus else 0, one.shape.cpus, one.shape.memory),
        default=None,
    )


def resources(
    request: Request, minutes: str, gres: str, partition: str, settings: SlurmSettings
) -> list[str]:
    """Return the options of sbatch for what is asked for."""
    words = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={math.ceil(request.cpus)}"]
    words += [f"--mem={_mebi(request.memory)}M", f"--partition={partition}", "--no-requeue"]
    words += [f"--time={minutes}"] if minutes else []
    words += [f"--gres={gres}"] if gres else []
    words += [f"--tmp={_mebi(request.disk)}M"] if request.disk else []
    for name in ("account", "qos", "constraint", "reservation"):
        if value := getattr(settings, name):
            words.append(f"--{name}={value}")
    return words


def _choose(
    request: Request, partition: Partition, nodes: Sequence[Node], settings: SlurmSettings, root: bool
) -> Choice:
    limited = [_limited(node, partition) for node in nodes]
    shape, gres, why = _largest_shape(request, limited, settings), "", ""
    fitting = [node for node in limited if not _lacks(request, node)]
    if request.image:
        why = "Slurm has no images to choose from"
    elif refusal := _refusal(partition, settings, root):
        why = refusal
    elif not fitting:
        why = shortfall(request, shape) or "no node has all of it"
    elif partition.longest and request.time > partition.longest:
        why = f"jobs last {format_time(partition.longest)} minutes at most, {format_time(request.time)} were asked"
    elif request.gpus and request.gpu_memory:
        kind = _gpu_kind(request, fitting[0])
        memory = _memory_of(kind, settings)
        if memory < request.gpu_memory:
            why = f"the memory of its GPUs ({kind or 'no type'}) is " + (
                "too little" if memory else "not known: set gpu_memory of this provider"
            )
    if not why:
        kind = _gpu_kind(request, fitting[0])
        gres = (f"gpu:{kind}:{request.gpus}" if kind else f"gpu:{request.gpus}") if request.gpus else ""
        shape = Shape(
            name=partition.name,
            cpus=math.ceil(request.cpus),
            memory=_mebi(request.memory) * MEBI,
            disk=request.disk,
            gpus=request.gpus,
            gpu_model=kind if request.gpus else "",
            gpu_memory=_memory_of(kind, settings) if request.gpus else 0,
        )
    return Choice(partition.name, shape, _minutes(request, partition, settings), gres, _named(partition, why))


def _named(partition: Partition, why: str) -> str:
    return f"partition {partition.name}: {why}" if why else ""


def _refusal(partition: Partition, settings: SlurmSettings, root: bool) -> str:
    """Say why we may not use a partition, as far as it tells itself."""
    if not partition.up:
        return "takes no jobs now"
    if root and not partition.root:
        return "takes no jobs of root"
    if partition.accounts and settings.account not in partition.accounts:
        return f"is for the accounts {', '.join(sorted(partition.accounts))}"
    if settings.account and settings.account in partition.denied:
        return f"is not for the account {settings.account}"
    if partition.qos and settings.qos and settings.qos not in partition.qos:
        return f"takes the qualities of service {', '.join(sorted(partition.qos))}"
    return ""


def _limited(node: Node, partition: Partition) -> Node:
    cpus, memory = partition.cpus or node.cpus, partition.memory or node.memory
    return Node(
        node.name,
        node.usable,
        min(node.cpus, cpus),
        min(node.memory, memory),
        node.disk,
        node.partitions,
        node.gpus,
    )


def _lacks(request: Request, node: Node) -> bool:
    kind = _gpu_kind(request, node)
    return (
        node.cpus < request.cpus
        or node.memory < request.memory
        or (request.disk > 0 and node.disk < request.disk)
        or (request.gpus > 0 and node.gpus.get(kind, 0) < request.gpus)
    )


def _gpu_kind(request: Request, node: Node) -> str:
    """Return the type of GPU on a node that fits, and of which it has most."""
    fitting = {kind: count for kind, count in node.gpus.items() if request.gpu_model.lower() in kind}
    return max(fitting, key=lambda kind: fitting[kind], default="")


def _largest_shape(request: Request, nodes: Sequence[Node], settings: SlurmSettings) -> Shape:
    """Return the most that one node has of what was asked for."""
    if not nodes:
        return Shape(cpus=0, memory=0)
    best = max(
        nodes,
        key=lambda node: (
            node.gpus.get(_gpu_kind(request, node), 0) if request.gpus else 0,
            node.cpus,
            node.memory,
        ),
    )
    kind = _gpu_kind(request, best) or max(best.gpus, key=lambda one: best.gpus[one], default="")
    return Shape(
        cpus=best.cpus,
        memory=best.memory,
        disk=best.disk,
        gpus=best.gpus.get(kind, 0),
        gpu_model=kind,
        gpu_memory=_memory_of(kind, settings),
    )


def _memory_of(kind: str, settings: SlurmSettings) -> int:
    return next((size for name, size in settings.gpu_memory.items() if name.lower() == kind), 0)


def _minutes(request: Request, partition: Partition, settings: SlurmSettings) -> str:
    asked = request.time or settings.time
    if not asked:
        return ""
    limit = asked + settings.margin
    return format_time(min(limit, partition.longest) if partition.longest else limit)


def _mebi(size: int) -> int:
    return max(-(-size // MEBI), 1)
