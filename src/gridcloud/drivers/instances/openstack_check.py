"""Try an OpenStack provider without making anything. Blocking."""

from __future__ import annotations

from collections.abc import Callable

from gridcloud.drivers.instances.openstack_choices import Choices
from gridcloud.drivers.instances.openstack_cloud import Cloud
from gridcloud.drivers.instances.openstack_words import explain_shortage, shape_of
from gridcloud.errors import GridcloudError
from gridcloud.instances.matching import describe
from gridcloud.instances.model import Finding, Request

__all__ = ["examine"]

LOOK = "Look at the provider's entry and at clouds.yaml."


def examine(cloud: Cloud, choices: Choices) -> list[Finding]:
    """Return a finding for credentials, image, shapes, network and quotas; the first alone where it is not ok."""
    first = _try(cloud, "credentials", lambda: _credentials(cloud))
    if not first.ok:
        return [first]
    trials = {
        "image": lambda: choices.image(Request())[1].chosen,
        "shapes": lambda: _shapes(cloud, choices),
        "network": lambda: _network(cloud, choices),
        "quota": lambda: _quotas(choices),
    }
    return [first, *(_try(cloud, subject, trial) for subject, trial in trials.items())]


def _try(cloud: Cloud, subject: str, trial: Callable[[], str | Finding]) -> Finding:
    try:
        said = cloud.ask(trial)
    except GridcloudError as error:
        return Finding(subject=subject, ok=False, message=error.message, remedy=error.remedy or LOOK)
    return said if isinstance(said, Finding) else Finding(subject=subject, ok=True, message=said)


def _credentials(cloud: Cloud) -> str:
    cloud.compute_quotas()
    return f"{cloud.label} takes them: project {cloud.project()}, region {cloud.region() or 'without a name'}"


def _shapes(cloud: Cloud, choices: Choices) -> str | Finding:
    settings = cloud.settings
    allowed = [shape_of(one, settings.gpus) for one in choices.allowed()]
    if not allowed:
        return Finding(
            subject="shapes",
            ok=False,
            message="The project may take no flavor.",
            remedy="Ask the cloud's operators for access to one.",
        )
    quotas = choices.quotas(False, False)
    fitting = [
        one for one in allowed if not explain_shortage(quotas, choices.needs(one, 0, False), ever=True)
    ]
    if not fitting:
        least = min(allowed, key=lambda shape: (shape.cpus, shape.memory))
        why = explain_shortage(quotas, choices.needs(least, 0, False), ever=True)
        return Finding(
            subject="shapes",
            ok=False,
            message=f"None of the {len(allowed)} flavors is within {why} by the smallest, {least.name}.",
            remedy="Ask the cloud's operators for a larger quota, or set 'shapes' to smaller ones.",
        )
    greatest = max(fitting, key=lambda shape: (shape.gpus, shape.cpus, shape.memory))
    gpus = sum(1 for shape in fitting if shape.gpus)
    beyond = len(allowed) - len(fitting)
    more = f"; {beyond} larger ones are beyond the project's quota" if beyond else ""
    return (
        f"{len(fitting)} flavors, {gpus or 'none'} of them with GPUs; the largest: {greatest.name} "
        f"({describe(greatest)}){more}"
    )


def _network(cloud: Cloud, choices: Choices) -> str | Finding:
    chosen = choices.network()
    name = chosen.network.name or chosen.network.id
    if not chosen.external:
        jump = cloud.settings.jump
        return f"{name}; machines are reached by their own address" + (
            f" through {jump.label}" if jump else ""
        )
    joined = cloud.gateways(chosen.network.id)
    # Routers of others are not seen: only what is seen to be missing is told.
    if chosen.network.own and chosen.external not in joined:
        return Finding(
            subject="network",
            ok=False,
            message=f"No router joins the network {name} to the one that floating addresses come from.",
            remedy="Make one: 'openstack router create', 'router set --external-gateway', 'router add subnet'.",
        )
    return f"{name}: {chosen.step.why}"


def _quotas(choices: Choices) -> str | Finding:
    quotas = choices.quotas(False, True)
    words = ", ".join(
        f"{one.words(one.used)} of {one.words(one.limit) if one.limit >= 0 else 'any number of'} {one.what}"
        for one in quotas
    )
    empty = [one.what for one in quotas if not one.left]
    if empty:
        return Finding(
            subject="quota",
            ok=False,
            message=f"Nothing is left of: {', '.join(empty)} (used are {words}).",
            remedy="End something, or ask the cloud's operators for a larger quota.",
        )
    return f"used are {words}"
