"""Pods, whatever they are for: the settings of those who make some, what all of them have, and what the cluster says.

Driver modules for instances and for jobs make pods of one cluster; what is the same of both is here.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gridcloud.settings import ProviderSettings

__all__ = [
    "INSTALLATION",
    "NEVER",
    "POWERLESS",
    "PodSettings",
    "Toleration",
    "check_name",
    "digest_of",
    "explain_image",
    "label_value",
    "place",
    "plain",
    "secure",
    "short",
    "unschedulable",
    "when",
    "worst_event",
]

INSTALLATION = "gridcloud.io/installation"
"""The label with our owner tag."""
POWERLESS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What a container may do beyond its user's rights: nothing."""

Document = Mapping[str, Any]

_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

NEVER = frozenset(
    {
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
    }
)
"""Why a container waits, where waiting on does not help."""


class Toleration(BaseModel):
    """A taint of nodes that pods may be put on all the same; the words are those of Kubernetes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(default="", description="key of the taint; empty, with operator Exists: any")
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Equal compares the value too, Exists takes any"
    )
    value: str = Field(default="", description="value of the taint")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description="effect of the taint; empty: any"
    )


class PodSettings(ProviderSettings):
    """What every entry has that makes pods in one namespace of one cluster."""

    place: ClassVar[tuple[str, ...]] = ("kubeconfig", "context", "namespace")

    kubeconfig: str = Field(
        default="",
        description="file that says where the cluster is and who we are; in-cluster: the service account of the pod "
        "that gridcloud runs in; by default KUBECONFIG, else ~/.kube/config, else that account",
    )
    context: str = Field(
        default="", description="context in the kubeconfig; needed where it has more than one"
    )
    namespace: str = Field(
        default="", description="namespace for pods and homes; by default the context's own"
    )
    image: str = Field(min_length=1, description="image of requests that name none; it has python3 and sh")
    images: tuple[str, ...] = Field(
        default=(), description="further images that requests may name; * stands for anything (team/*:2026)"
    )
    pull: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="when a node fetches the image"
    )
    image_pull_secrets: tuple[str, ...] = Field(
        default=(), description="secrets of the namespace that open the image's registry"
    )
    service_account: str = Field(
        default="",
        description="service account whose token pods get; by default they get none",
    )
    run_as_user: int = Field(
        default=1000,
        ge=1,
        le=2**31 - 1,
        description="number of the user within, and of its group; never root",
    )
    node_selector: Mapping[str, str] = Field(
        default_factory=dict, description="labels that a node must have (key: value)"
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="taints of nodes that pods may be put on (key, operator, value, effect)"
    )
    priority_class: str = Field(default="", description="priority class of pods")
    runtime_class: str = Field(default="", description="runtime class of pods, e.g. gvisor")
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="resource by which nodes count their GPUs"
    )
    gpu_model: str = Field(
        default="nvidia.com/gpu.product", description="label of nodes that names the model of their GPUs"
    )

    @field_validator("namespace", "service_account", "priority_class", "runtime_class")
    @classmethod
    def _named(cls, value: str) -> str:
        return check_name(value)

    @field_validator("image_pull_secrets")
    @classmethod
    def _all_named(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_name(value) for value in values)

    @field_validator("node_selector")
    @classmethod
    def _labels(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for key, text in value.items():
            if not _LABEL.fullmatch(key) or (text and not _LABEL.fullmatch(text)) or "/" in text:
                raise ValueError(f"{key!r:.100}: {text!r:.100} is no label of Kubernetes")
        return value


def explain_image(image: str, settings: PodSettings) -> str:
    """Return why an image may not be asked for; "" where it may."""
    names = (settings.image, *settings.images)
    simple = image.isascii() and image.isprintable() and " " not in image and len(image) <= 255
    if simple and not image.startswith("-") and any(fnmatch.fnmatchcase(image, name) for name in names):
        return ""
    return f"the image {image!r:.120} may not be asked for here; allowed are: {', '.join(names)}"


def check_name(value: str) -> str:
    """Return a name of something in Kubernetes, or nothing. Raises ValueError for what can be none."""
    if value and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
        raise ValueError(f"{value!r:.100} is no name in Kubernetes: lower-case letters, digits and '-'")
    return value


def secure(user: int) -> dict[str, Any]:
    """Return the security context of a pod whose processes are this user's, never root's."""
    return {
        "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip


def place(settings: PodSettings, gpu_label: str = "") -> dict[str, Any]:
    """Return where a pod may be put, and on whose account, as a part of its ``spec``. ``gpu_label``: the model of its
    GPUs, as nodes are labelled; empty: any."""
    placed: dict[str, Any] = {}
    selector = dict(settings.node_selector)
    if gpu_label:
        selector[settings.gpu_model] = gpu_label
    if selector:
        placed["nodeSelector"] = selector
    if settings.tolerations:
        placed["tolerations"] = [one.model_dump(exclude_defaults=True) for one in settings.tolerations]
    if settings.service_account:
        placed["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class:
        placed["priorityClassName"] = settings.priority_class
    if settings.runtime_class:
        placed["runtimeClassName"] = settings.runtime_class
    return placed


def digest_of(owner: str) -> str:
    """Return what stands for an owner in labels."""
    return hashlib.sha256(owner.encode()).hexdigest()[:40]


def label_value(text: str) -> str:
    """Return a text where a label can hold it, else a digest of it."""
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?", text) and ".." not in text:
        return text
    return f"x{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def short(installation: str) -> str:
    """Return what stands for an installation in names."""
    return re.sub(r"[^a-z0-9]", "", installation.lower())[:8] or "x"


def plain(text: str) -> str:
    """Return what of a text an annotation takes and a terminal may show."""
    return "".join(character for character in text if character.isprintable())[:300]


def unschedulable(pod: Document) -> str:
    """Return why the scheduler finds no node for a pod, in its words; "" where it has not said so."""
    for condition in pod.get("status", {}).get("conditions") or ():
        about = condition["type"], condition["status"], condition.get("reason")
        if about == ("PodScheduled", "False", "Unschedulable"):
            return str(condition.get("message") or "no node fits")
    return ""


def worst_event(events: Iterable[Document]) -> str:
    """Return the newest warning, in the cluster's words; "" where there is none."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    if not warnings:
        return ""
    newest = max(warnings, key=when)
    return f"{newest.get('reason', '')}: {newest.get('message', '')}"[:500]


def when(event: Document) -> str:
    """Return the time of an event, to sort by."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
