"""Settings of the ``kubernetes`` driver."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from gridcloud.drivers.kubernetes_pods import PodSettings, Toleration, check_name
from gridcloud.instances.bootstraps import AgentDoor
from gridcloud.instances.model import parse_size
from gridcloud.settings import Duration

__all__ = ["KubernetesSettings", "Toleration"]

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]


class KubernetesSettings(PodSettings):
    """Settings of one namespace of one cluster; several clusters are several providers."""

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

    @field_validator("storage_class")
    @classmethod
    def _class_named(cls, value: str) -> str:
        return check_name(value)
