"""The settings of the `slurm` provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from gridcloud.drivers.slurm_login import Directory, LoginSettings
from gridcloud.instances.bootstraps import ProxyURL, ServiceURL
from gridcloud.instances.ssh_machine import Word
from gridcloud.settings import Duration, Size

__all__ = ["SlurmSettings"]


class SlurmSettings(LoginSettings):
    """Settings of a cluster under Slurm."""

    url: ServiceURL = Field(
        description="HTTPS address of this gridcloud's service, as the nodes of the cluster reach it"
    )
    ca: Path | None = Field(
        default=None,
        description="file of the authorities that the nodes believe (PEM); the system's otherwise",
    )
    proxy: ProxyURL = Field(default="", description="HTTP proxy that the nodes go through, http://HOST:PORT")
    networks: tuple[str, ...] = Field(
        default=(), description="networks (CIDR) that the nodes come from; any otherwise"
    )
    directory: Directory = Field(
        default="~/.gridcloud/slurm",
        description="folder that login node and nodes share; work and homes of instances lie there",
    )
    partitions: tuple[Word, ...] = Field(default=(), description="partitions to use; all when not given")
    command: tuple[str, ...] = Field(
        default=(),
        description="gridcloud on the nodes, with arguments; the login node's own when not given",
    )
    gpu_memory: Mapping[str, Size] = Field(
        default_factory=dict,
        description="memory of each GPU by its type: Slurm does not tell it, e.g. a100: 40GiB",
    )
    margin: Duration = Field(
        default=300, description="how much longer than its instance a job may last: it starts and ends within"
    )
    wait: Duration = Field(
        default=600, description="longest expected wait in the queue; 0: only what starts at once"
    )
