"""Settings of the ``kubernetes`` driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from gridcloud.instances.bootstraps import AgentDoor
from gridcloud.instances.model import parse_size
from gridcloud.settings import Duration, ProviderSettings

__all__ = ["KubernetesSettings", "Toleration"]

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


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


class KubernetesSettings(ProviderSettings):
    """Settings of one namespace of one cluster; several clusters are several providers."""

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
    gpu_memory: str = Field(
        default="nvidia.com/gpu.memory",
        description="label of nodes that tells the memory of each of their GPUs, in MiB",
    )
    agent: AgentDoor | None = Field(
        default=None,
        description="have an agent in each pod dial this gridcloud's service, in place of exec through the "
        "cluster's API: {url: https://HOST:PORT}; the image has gridcloud then",
    )
    cpus: float | None = Field(
        default=None, gt=0, description="CPU cores of one pod, at most; the largest node's when not given"
    )
    memory: Size | None = Field(
        default=None, description="memory of one pod, at most, e.g. 64GiB; the largest node's when not given"
    )
    home_size: Size | None = Field(
        default=None,
        description="give each owner a volume of this size as home, kept between instances, e.g. 20GiB; not given: the "
        "home goes with its pod",
    )
    course_claim: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$",
        description="claim, in that namespace, that has what lies below hub.course_folders: its folders are mounted",
    )
    home_access: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        default="ReadWriteOnce",
        description="ReadWriteMany, where the storage can, lets an owner's pods run on several nodes at once",
    )
    storage_class: str = Field(
        default="", description="storage class of homes; the cluster's default when not given"
    )
    queue: Duration = Field(
        default=0,
        description="how long a pod may wait for a node, e.g. 10m where an autoscaler adds nodes; 0: the next offer is "
        "tried at once",
    )
    longest: Duration = Field(
        default=0,
        description="life after which the cluster itself ends a pod, however often it was extended, e.g. 7d; 0: none",
    )
    price_cpu: Decimal = Field(
        default=Decimal(0), ge=0, description="price per hour of one CPU core, beside 'price'"
    )
    price_memory: Decimal = Field(
        default=Decimal(0), ge=0, description="price per hour of one GiB of memory, likewise"
    )
    price_gpu: Decimal = Field(default=Decimal(0), ge=0, description="price per hour of one GPU, likewise")

    @field_validator("namespace", "service_account", "storage_class", "priority_class", "runtime_class")
    @classmethod
    def _named(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
            raise ValueError(f"{value!r:.100} is no name in Kubernetes: lower-case letters, digits and '-'")
        return value

    @field_validator("image_pull_secrets")
    @classmethod
    def _all_named(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._named(value) for value in values)

    @field_validator("node_selector")
    @classmethod
    def _labels(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for key, text in value.items():
            if not _LABEL.fullmatch(key) or (text and not _LABEL.fullmatch(text)) or "/" in text:
                raise ValueError(f"{key!r:.100}: {text!r:.100} is no label of Kubernetes")
        return value
