"""What the API says and takes of clusters, as typed documents: shared by the service and its clients."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.clusters.model import Cluster, ClusterName, ClusterRequest, NodeCount
from gridcloud.instances.model import Text

__all__ = ["ClusterAccess", "ClusterProvider", "ClusterProviders", "ClusterWish", "Clusters", "Scaling"]


class ClusterWish(BaseModel):
    """A cluster to be made."""

    model_config = ConfigDict(extra="forbid")

    name: ClusterName
    request: ClusterRequest = Field(default_factory=ClusterRequest)
    owner: Text | None = Field(default=None, description="for whom; administrators only")


class Scaling(BaseModel):
    """How many nodes a cluster is to have."""

    model_config = ConfigDict(extra="forbid")

    nodes: NodeCount


class Clusters(BaseModel):
    """Clusters, oldest first."""

    clusters: list[Cluster]


class ClusterAccess(BaseModel):
    """The administrator's access to a cluster: a secret."""

    kubeconfig: str


class ClusterProvider(BaseModel):
    """One entry of 'clusters' in the configuration."""

    name: str
    driver: str = ""
    location: str = ""
    problem: str = ""


class ClusterProviders(BaseModel):
    """What makes clusters."""

    providers: list[ClusterProvider]
    drivers: dict[str, str] = Field(
        default_factory=dict, description="installed drivers: name and distribution"
    )
