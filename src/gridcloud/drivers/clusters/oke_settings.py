"""An entry of clusters in Oracle's cloud."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gridcloud.clusters.driver import ClusterSettings
from gridcloud.drivers.oracle import AccountSettings
from gridcloud.settings import Size

__all__ = ["OKESettings"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class OKESettings(AccountSettings, ClusterSettings):
    """What the `oke` driver is told."""

    vcn: str = Field(min_length=1, description="VCN of the clusters: its OCID or its name")
    api_subnet: str = Field(min_length=1, description="subnet of the API server: its OCID or its name")
    node_subnet: str = Field(min_length=1, description="subnet of the nodes: its OCID or its name")
    load_balancer_subnets: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="subnets of the load balancers that clusters make: OCIDs or names"
    )
    public_address: bool = Field(default=True, description="whether the API server is reached from outside")
    shape: str = Field(
        default="VM.Standard.E4.Flex", description="shape of the nodes of requests that name none"
    )
    shapes: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=("VM.*",),
        min_length=1,
        description="names of the shapes that may be taken; * stands for anything",
    )
    cpus: float = Field(
        default=4, gt=0, description="CPUs of a node of a flexible shape, where none are asked"
    )
    memory: Size = Field(default=16 * 1024**3, description="memory of such a node, where none is asked")
    disk: int = Field(default=50, ge=50, le=32768, description="GB of a node's boot volume")
    kubernetes: str = Field(
        default="", description="version of Kubernetes, e.g. 1.31; empty: the newest that Oracle has"
    )
    type: Literal["BASIC_CLUSTER", "ENHANCED_CLUSTER"] = Field(
        default="BASIC_CLUSTER", description="kind of cluster; an enhanced one costs by the hour"
    )
