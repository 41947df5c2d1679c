"""Pods of a real cluster as instances: the contract, and what only Kubernetes does."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

from gridcloud.drivers.instances.kubernetes import KubernetesDriver
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.instances.model import Request
from gridcloud.testing.instances import InstanceDriverContract, driver_context

pytestmark = [pytest.mark.lab, pytest.mark.needs_root]


@pytest.fixture
def namespace(kubernetes_cluster: Cluster) -> str:
    return kubernetes_cluster.make_namespace(f"n{secrets.token_hex(4)}")


MakeDriver = Callable[..., KubernetesDriver]


@pytest.fixture
async def make_driver(
    kubernetes_cluster: Cluster, namespace: str, tmp_path: Path
) -> AsyncIterator[MakeDriver]:
    made: list[KubernetesDriver] = []

    def make(**settings: Any) -> KubernetesDriver:
        base = {
            "driver": "kubernetes", "kubeconfig": str(kubernetes_cluster.kubeconfig), "namespace": namespace,
            "image": SESSION_IMAGE, "pull": "Never", "memory": "512MiB",
        }  # fmt: skip
        context = driver_context(tmp_path / f"driver{len(made)}")
        made.append(KubernetesDriver(KubernetesSettings(**(base | settings)), context))
        return made[-1]

    yield make
    for driver in made:
        for holding in await driver.holdings():
            await driver.destroy(holding.instance_id, holding.handle)
        await driver.close()


@pytest.fixture
def driver(make_driver: MakeDriver) -> KubernetesDriver:
    return make_driver()


class TestKubernetesDriver(InstanceDriverContract):
    request_: ClassVar[Request] = Request(cpus=0.5, memory=64 * 1024**2)

    @pytest.fixture
    def driver(self, driver: KubernetesDriver) -> KubernetesDriver:
        return driver
