"""The settings of `driver: magnum`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from gridcloud.clusters.driver import ClusterSettings

__all__ = ["MagnumSettings"]


class MagnumSettings(ClusterSettings):
    """Clusters of one project in one region of an OpenStack cloud with Magnum."""

    place: ClassVar[tuple[str, ...]] = ("cloud", "clouds_file", "region")

    cloud: str = Field(
        min_length=1,
        description="name of the cloud in clouds.yaml, which holds the credentials; envvars: the OS_… variables",
    )
    clouds_file: Path | None = Field(
        default=None,
        description="the clouds.yaml; when not given, the one in this folder, ~/.config/openstack or /etc/openstack",
    )
    region: str = Field(default="", description="region; the one of clouds.yaml when not given")
    template: str = Field(
        min_length=1, description="name or id of the cluster template that clusters are made from"
    )
    versions: Mapping[str, str] = Field(
        default_factory=dict, description="cluster templates by the version of Kubernetes that they make"
    )
    shape: str = Field(default="", description="flavor of the nodes; the template's when not given")
    shapes: tuple[str, ...] = Field(
        default=("*",), description="names of the flavors that requests may lead to; * stands for anything"
    )
    gpus: Mapping[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        description="GPUs of a node by name of flavor, * stands for anything: for budgets of GPU-hours",
    )
    masters: int = Field(default=0, ge=0, description="control nodes; 0: as many as the template says")
    master_shape: str = Field(
        default="", description="flavor of the control nodes; the template's when not given"
    )
    keypair: str = Field(
        default="", description="key pair for logging in to nodes; the template's when not given"
    )
    network: str = Field(default="", description="network of the nodes; the template's when not given")
    subnet: str = Field(default="", description="subnet of the nodes; the template's when not given")
    labels: Mapping[str, str] = Field(
        default_factory=dict, description="further labels of clusters, beside the template's; no secrets here"
    )
    timeout: int = Field(default=60, ge=1, description="minutes after which Magnum gives up making a cluster")
