"""What is found when a namespace is tried: rights, quotas, nodes, image, storage. Nothing is started."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gridcloud.drivers.instances.kubernetes_api import Namespace
from gridcloud.drivers.instances.kubernetes_capacity import Quota
from gridcloud.drivers.instances.kubernetes_manifests import OWNER
from gridcloud.drivers.instances.kubernetes_offers import Room, choose
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.errors import Forbidden
from gridcloud.instances.matching import describe
from gridcloud.instances.model import Finding, Request

__all__ = ["examine"]

NEEDED = (
    ("create", "pods"), ("get", "pods"), ("list", "pods"), ("patch", "pods"), ("delete", "pods"),
)  # fmt: skip
EXEC = (("get", "pods/exec"), ("create", "pods/exec"))
AGENT = (("create", "secrets"), ("delete", "secrets"))
"""In place of exec, where an agent in each pod dials us."""
HOMES = (
    ("get", "persistentvolumeclaims"),
    ("create", "persistentvolumeclaims"),
    ("list", "persistentvolumeclaims"),
)
USEFUL = (
    ("list", "events", False, "why a pod does not start is told less well"),
    ("list", "resourcequotas", False, "a full quota shows only when a pod is tried"),
    ("list", "limitranges", False, "a limit shows only when a pod is tried"),
    ("list", "nodes", True, "what is free shows only when a pod is tried"),
    ("list", "pods", True, "what is free shows only when a pod is tried"),
)


async def examine(
    namespace: Namespace, settings: KubernetesSettings, provider: str, room: Room
) -> Sequence[Finding]:
    """Return what is found, in the order in which it would be mended."""
    findings = [(True, f"Kubernetes {await namespace.version()} answers: {room.place}", "")]
    if await namespace.exists() is False:
        remedy = f"kubectl create namespace {namespace.name}, or set 'namespace'."
        findings.append((False, f"there is no namespace {namespace.name}", remedy))
    else:
        findings.append(await _rights(namespace, settings))
        for verb, resource, everywhere, then in USEFUL:
            if not await namespace.may(verb, resource, everywhere=everywhere):
                where = " of all namespaces" if everywhere and resource == "pods" else ""
                role = "ClusterRole" if everywhere else "Role"
                remedy = f"Grant it by a {role}, if you like; docs/guide/kubernetes.md has one."
                findings.append((True, f"{resource}{where} may not be listed: {then}", remedy))
        findings += [(True, f"quota {quota.name}: {_used(quota)}", "") for quota in room.quotas if quota.hard]
        findings.append(_nodes(settings, provider, room))
        findings.append(await _image(namespace, settings, provider))
        if settings.home_size:
            findings += await _homes(namespace, settings)
    # What is right and could be better all the same is what could not be found out.
    return [
        Finding(subject=provider, ok=ok, known=not (ok and remedy), message=text, remedy=remedy)
        for ok, text, remedy in findings
    ]


async def _rights(namespace: Namespace, settings: KubernetesSettings) -> tuple[bool, str, str]:
    wanted = NEEDED + (AGENT if settings.agent else EXEC) + (HOMES if settings.home_size else ())
    allowed = await asyncio.gather(*(namespace.may(verb, resource) for verb, resource in wanted))
    lacking = [f"{verb} {resource}" for (verb, resource), may in zip(wanted, allowed, strict=True) if not may]
    if not lacking:
        return True, "our credentials allow what is needed", ""
    remedy = (
        f"Is {namespace.name} the right namespace? Else set 'namespace', or 'context'. An administrator grants it "
        "there by a Role; docs/guide/kubernetes.md has one."
    )
    return False, f"our credentials do not allow: {', '.join(lacking)}", remedy


def _nodes(settings: KubernetesSettings, provider: str, room: Room) -> tuple[bool, str, str]:
    if room.nodes is None:
        return True, "nodes are not told of, so each request is tried", ""
    if not room.nodes:
        remedy = "Look at 'kubectl get nodes', and at 'node_selector' and 'tolerations'."
        return False, "there is no node that pods may be put on", remedy
    largest = max(room.nodes, key=lambda node: (node.whole.cpus, node.whole.memory))
    smallest = Request(cpus=0.001, memory=1 << 20)
    offer = choose(smallest, settings, provider, room)[0]
    many = "1 node" if len(room.nodes) == 1 else f"{len(room.nodes)} nodes"
    gpus = sum(node.whole.gpus for node in room.nodes)
    message = f"{many} to give, {gpus} GPUs; the largest pod is {describe(largest.whole)}"
    return True, message if offer.available else f"{message}; now full: {offer.why_not}", ""


async def _image(namespace: Namespace, settings: KubernetesSettings, provider: str) -> tuple[bool, str, str]:
    there = [
        any(
            _same(name, settings.image)
            for image in node["status"].get("images") or ()
            for name in image["names"]
        )
        for node in await namespace.nodes() or ()
    ]
    if any(there):
        return True, f"the image {settings.image} is on {sum(there)} of {len(there)} nodes", ""
    if settings.pull == "Never" and there:
        remedy = "Import it on the nodes, or set 'pull' to IfNotPresent."
        return False, f"the image {settings.image} is on no node, and 'pull' is Never", remedy
    if there:
        words = "is on no node yet: whether it can be fetched shows when a pod is tried"
    else:
        words = "was not looked for, since nodes may not be listed: whether it can be had shows when a pod is tried"
    return True, f"the image {settings.image} {words}", f"Try it: gridcloud run --on {provider} -- true"


async def _homes(namespace: Namespace, settings: KubernetesSettings) -> list[tuple[bool, str, str]]:
    found = []
    known = await namespace.storage_class(settings.storage_class)
    if known is None:
        words = "storage classes may not be listed: whether homes can be made shows when a pod is tried"
        remedy = "Grant it by a ClusterRole, if you like; docs/guide/kubernetes.md has one."
        found.append((True, words, remedy))
    if known is False:
        name = settings.storage_class or "a default storage class"
        remedy = "Set 'storage_class' to one of 'kubectl get storageclasses'."
        found.append((False, f"there is no {name}, so homes would wait for ever", remedy))
    try:
        count = len(await namespace.claims())
    except Forbidden:
        return found  # told with the rights
    many = "1 home is" if count == 1 else f"{count} homes are"
    message = (
        f"{many} kept in claims; `kubectl -n {namespace.name} get pvc -l {OWNER} -o yaml` shows whose, "
        f"`kubectl -n {namespace.name} delete pvc NAME` removes one with all that is in it"
    )
    return [*found, (True, message if count else "homes are kept in claims; there is none yet", "")]


def _used(quota: Quota) -> str:
    return ", ".join(
        f"{name} {quota.used.get(name, '0')} of {hard}" for name, hard in sorted(quota.hard.items())
    )


def _same(name: str, wanted: str) -> bool:
    """Tell whether a node's long name of an image is the one that was written."""
    whole = wanted if "@" in wanted or ":" in wanted.rpartition("/")[2] else f"{wanted}:latest"
    return name == whole or name.endswith(f"/{whole}")
