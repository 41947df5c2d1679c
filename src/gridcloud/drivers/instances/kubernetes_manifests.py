"""The manifests of pods and homes: pure, from a specification to what the API takes.

What people type (owners, names of instances) reaches annotations only, cut to what a terminal may show; names and
labels are made of digests and of ids that were checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.drivers.kubernetes_pods import (
    INSTALLATION,
    POWERLESS,
    digest_of,
    label_value,
    place,
    plain,
    secure,
    short,
)
from gridcloud.drivers.kubernetes_quantities import format_cpus
from gridcloud.instances.bootstraps import AgentDoor
from gridcloud.instances.model import MOUNTS, Folder, Shape, Spec

__all__ = [
    "CONTAINER", "DIAL", "EXPIRES", "FOLDER", "GRACE", "HOME", "INSTALLATION", "INSTANCE", "INVITED", "LEAST_MEMORY",
    "OWNER", "WAIT", "digest_of", "home_name", "label_value", "pod_name", "render_home", "render_pod", "render_secret",
    "resources",
]  # fmt: skip

CONTAINER = "instance"
INSTANCE = "gridcloud.io/instance"
OWNER = "gridcloud.io/owner"
NAME = "gridcloud.io/name"
EXPIRES = "gridcloud.io/expires"
"""Annotation: seconds since 1970 when the pod ends itself, which it reads from a file of the downward API."""

INVITED = "gridcloud.io/invited"
"""Annotation: that the secret with the token of the pod's agent was made."""

FOLDER = "/gridcloud"
"""The instance's own folder: working directory of its user, gone with it."""

HOME = "/gridcloud/home"
"""Where an owner's home is in a pod."""

GRACE = 3600
"""Seconds beyond the time asked for, until the end is armed: starting takes time."""

LATE = 180
"""Seconds after its expiry that a pod waits for word of a later one: a node may take two minutes to pass it on."""

LEAST_MEMORY = 16 << 20
"""Bytes below which no container starts."""

# The first process: it takes in orphans, and ends when the time has come that the annotation tells.
WAIT = f"""
trap 'exit 0' TERM INT
umask 077; mkdir -p {HOME}; umask 022
while :; do
  at=; {{ read -r at < /etc/gridcloud/expires; }} 2> /dev/null
  if [ -n "$at" ]; then now=$(date +%s) || exit 1; [ "$now" -lt "$((at + {LATE}))" ] || exit 0; fi
  sleep 5 & wait $! || exit 1
done
"""


# Likewise where an agent dials us: it is the first process's only child, and the pod ends with it. The arguments are
# the agent's command; its token comes by standard input, as files of secrets are readable by a group.
DIAL = f"""
end() {{ kill -TERM "$agent" 2> /dev/null; wait "$agent"; exit 0; }}
trap end TERM INT
umask 077; mkdir -p {HOME}; umask 022
"$@" --token-file - < /etc/gridcloud-agent/token &
agent=$!
while kill -0 "$agent" 2> /dev/null; do
  at=; {{ read -r at < /etc/gridcloud/expires; }} 2> /dev/null
  if [ -n "$at" ]; then now=$(date +%s) || exit 1; [ "$now" -lt "$((at + {LATE}))" ] || end; fi
  sleep 5 & wait $! || exit 1
done
wait "$agent"
"""


def render_pod(
    spec: Spec, settings: KubernetesSettings, installation: str, expires: int | None, home: str = ""
) -> dict[str, Any]:
    """Return the manifest of an instance's pod. ``home``: the claim that is mounted as its owner's home."""
    shape = spec.offer.shape
    mounts: list[dict[str, Any]] = [{"name": "folder", "mountPath": FOLDER}]
    volumes: list[dict[str, Any]] = [{"name": "folder", "emptyDir": {}}]
    if home:
        mounts.append({"name": "home", "mountPath": HOME})
        volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": home}})
    _mount_courses(spec.folders, settings.course_claim, volumes, mounts)
    mounts.append({"name": "expiry", "mountPath": "/etc/gridcloud", "readOnly": True})
    path = f"metadata.annotations['{EXPIRES}']"
    volumes.append(
        {"name": "expiry", "downwardAPI": {"items": [{"path": "expires", "fieldRef": {"fieldPath": path}}]}}
    )
    amounts = resources(shape, settings.gpu_resource, spec.request.disk)
    container = {
        "name": CONTAINER,
        "image": spec.request.image or settings.image,
        "imagePullPolicy": settings.pull,
        "command": ["/bin/sh", "-c", WAIT],
        "workingDir": FOLDER,
        "env": [{"name": "HOME", "value": HOME}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": POWERLESS,
        "volumeMounts": mounts,
    }
    if settings.agent is not None:
        _dial(container, volumes, settings.agent, pod_name(installation, spec.id))
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": bool(settings.service_account),
        "enableServiceLinks": False,
        "securityContext": secure(settings.run_as_user),
        "containers": [container],
        "volumes": volumes,
    }  # fmt: skip
    if settings.longest:
        pod["activeDeadlineSeconds"] = settings.longest
    model = str(spec.offer.choice.get("gpu_label", "")) if shape.gpus else ""
    pod |= place(settings, model)
    notes = {INSTANCE: spec.id, OWNER: plain(spec.owner), NAME: plain(spec.name)}
    notes[EXPIRES] = "" if expires is None else str(expires)
    labels = {
        INSTALLATION: label_value(installation),
        INSTANCE: label_value(spec.id),
        OWNER: digest_of(spec.owner),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(installation, spec.id), "labels": labels, "annotations": notes},
        "spec": pod,
    }


def _mount_courses(
    folders: Sequence[Folder], claim: str, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]
) -> None:
    if folders and claim:
        volumes.append({"name": "courses", "persistentVolumeClaim": {"claimName": claim}})
    for folder in folders if claim else ():
        place = {"name": "courses", "mountPath": f"{MOUNTS}/{folder.at}"}
        mounts.append(place | {"subPath": folder.below, "readOnly": folder.read_only})


def render_secret(pod: Mapping[str, Any], token: str, authorities: bytes) -> dict[str, Any]:
    """Return the manifest of the secret by which the agent of a pod joins; the cluster removes it with the pod."""
    meta = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": meta["name"], "labels": dict(meta["labels"]), "ownerReferences": [owner]},
        "type": "Opaque",
        "stringData": {"token": f"{token}\n", "ca.pem": authorities.decode(errors="replace")},
    }


def render_home(owner: str, settings: KubernetesSettings, installation: str) -> dict[str, Any]:
    """Return the manifest of the claim of an owner's home. ``home_size`` is set."""
    spec: dict[str, Any] = {
        "accessModes": [settings.home_access],
        "resources": {"requests": {"storage": str(settings.home_size)}},
    }
    if settings.storage_class:
        spec["storageClassName"] = settings.storage_class
    labels = {INSTALLATION: label_value(installation), OWNER: digest_of(owner)}
    notes = {OWNER: plain(owner), INSTALLATION: plain(installation)}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": home_name(installation, owner), "labels": labels, "annotations": notes},
        "spec": spec,
    }


def resources(shape: Shape, gpu_resource: str, disk: int = 0) -> dict[str, str]:
    """Return what a pod of this shape takes, as Kubernetes writes it."""
    amounts = {"cpu": format_cpus(shape.cpus), "memory": str(shape.memory)}
    if shape.gpus:
        amounts[gpu_resource] = str(shape.gpus)
    if disk:
        amounts["ephemeral-storage"] = str(disk)
    return amounts


def pod_name(installation: str, instance_id: str) -> str:
    """Return the name of an instance's pod."""
    return f"gridcloud-{short(installation)}-{label_value(instance_id)}"


def home_name(installation: str, owner: str) -> str:
    """Return the name of the claim that is an owner's home."""
    return f"gridcloud-home-{short(installation)}-{digest_of(owner)[:16]}"


def _dial(container: dict[str, Any], volumes: list[dict[str, Any]], door: AgentDoor, secret: str) -> None:
    """Have a container run an agent that joins by the token in a secret."""
    volumes.append({"name": "agent", "secret": {"secretName": secret, "defaultMode": 0o440}})
    container["volumeMounts"].append({"name": "agent", "mountPath": "/etc/gridcloud-agent", "readOnly": True})
    container["command"] = ["/bin/sh", "-c", DIAL, "gridcloud", *_agent_words(door)]


def _agent_words(door: AgentDoor) -> list[str]:
    words = [*door.command, "agent", "bootstrap", door.url, "--state", f"{FOLDER}/agent", "--home", HOME]
    words += ["--ca", "/etc/gridcloud-agent/ca.pem"] if door.ca else []
    return words + (["--proxy", door.proxy] if door.proxy else [])
