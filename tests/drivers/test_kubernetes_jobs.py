"""Jobs of a real Kubernetes keep the contract of schedulers; what is made is as it is to be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

from gridcloud.drivers.jobs.kubernetes import KubernetesJobs, KubernetesJobsSettings
from gridcloud.drivers.jobs.kubernetes_manifests import Needs, render_door, render_job_array
from gridcloud.errors import Transient
from gridcloud.jobs.driver import JobDriver, Phase
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Request
from gridcloud.testing.jobs import JobDriverContract, job_context

pytest_plugins = ["tests.labs.fixtures"]
GOLDEN = Path(__file__).parent / "golden"

Make = Callable[..., KubernetesJobs]


def settings_of(**more: Any) -> KubernetesJobsSettings:
    base = {
        "driver": "kubernetes",
        "image": SESSION_IMAGE,
        "pull": "Never",
        "claim": "jobs",
        "share_claim": True,
    }
    return KubernetesJobsSettings.model_validate(base | more)


@pytest.fixture
def namespace(kubernetes_cluster: Cluster) -> str:
    """A namespace with a claim for the folders of jobs."""
    name = kubernetes_cluster.make_namespace(f"j{secrets.token_hex(4)}")
    kubernetes_cluster.make_volume(kubernetes_cluster.folder / name, name)
    spec = {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "lab", "volumeName": name,
        "resources": {"requests": {"storage": "1Gi"}},
    }  # fmt: skip
    claims = f"/api/v1/namespaces/{name}/persistentvolumeclaims"
    kubernetes_cluster.ask("POST", claims, {"metadata": {"name": "jobs"}, "spec": spec})
    return name


@pytest.fixture
async def make(kubernetes_cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[KubernetesJobs] = []

    def make_driver(**more: Any) -> KubernetesJobs:
        entry = {"kubeconfig": str(kubernetes_cluster.kubeconfig), "namespace": namespace} | more
        made.append(KubernetesJobs(settings_of(**entry), job_context(tmp_path / f"s{len(made)}")))
        return made[-1]

    yield make_driver
    for driver in made:
        await driver.close()
    kubernetes_cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.mark.lab
@pytest.mark.needs_root
class TestKubernetesJobs(JobDriverContract):
    request: ClassVar[Request] = Request(cpus=0.1, memory=128 << 20)
    seconds: ClassVar[float] = 150
    poll: ClassVar[float] = 0.5

    @pytest.fixture
    async def driver(self, make: Make) -> KubernetesJobs:
        driver = make()
        async with asyncio.timeout(self.seconds):
            while True:  # as the runner does, while the pod of the folders starts
                with contextlib.suppress(Transient):
                    await driver.holdings()
                    return driver

    async def test_a_pod_that_was_removed_is_not_begun_again(
        self, driver: KubernetesJobs, kubernetes_cluster: Cluster, namespace: str
    ) -> None:
        job = self.job("sh", "-c", "echo begun; sleep 500")
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        place = f"/api/v1/namespaces/{namespace}/pods"
        pods = [one["metadata"] for one in kubernetes_cluster.ask("GET", place)["items"]]
        [name] = [one["name"] for one in pods if "job-name" in one["labels"]]
        kubernetes_cluster.ask("DELETE", f"{place}/{name}", {"gracePeriodSeconds": 1})
        seen = (await self.ended(driver, [job.handle]))[job.handle]
        assert seen.cause in (Cause.MACHINE, Cause.EXIT)
        assert seen.begun
        assert await self.said(driver, job.handle) == b"begun\n"

    async def test_an_image_that_never_comes_refuses_it(self, make: Make) -> None:
        driver = make(images=["nowhere/*"])
        job = self.job("true", image="nowhere/such:1")
        [seen] = await self.run(driver, job)
        assert (seen.cause, seen.begun) == (Cause.REFUSED, False)
        assert "ErrImageNeverPull" in seen.detail
        await driver.remove([job.handle])

    @pytest.mark.xfail(reason="what is said in the moment in which a log is cut is lost: docs/design/jobs.md")
    async def test_a_log_is_bounded(self, driver: JobDriver) -> None:
        await super().test_a_log_is_bounded(driver)

    async def test_its_house_is_kept(
        self, driver: KubernetesJobs, kubernetes_cluster: Cluster, namespace: str
    ) -> None:
        await self.run(driver, job := self.job("true"))
        assert await driver.keep_house() > 0
        driver._used -= 1000
        assert await driver.keep_house() == 0
        assert (await driver.observe([job.handle]))[job.handle].phase is Phase.ENDED, "the door opens again"


def test_what_is_made() -> None:
    settings = settings_of(
        node_selector={"disk": "ssd"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        image_pull_secrets=["ours"],
        priority_class="low",
    )
    labels = {"gridcloud.io/jobs": "house-1"}
    needs = Needs("team/image:1", 1.5, 1 << 30, 1 << 30, 2, "NVIDIA-H100", 600)
    made = {
        "array": render_job_array(
            settings, "gridcloud-x-1", labels, "/gridcloud/jobs/x", ["j-a-1", "j-b-1"], needs
        ),
        "door": render_door(settings, "gridcloud-x-door-1", labels),
    }
    text = json.dumps(made, indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / "kubernetes-jobs.json"
    assert golden.read_text() == text


async def test_an_unknown_cluster_is_told(tmp_path: Path) -> None:
    driver = KubernetesJobs(settings_of(kubeconfig=str(tmp_path / "none")), job_context(tmp_path / "s"))
    try:
        [finding] = await driver.check()
        assert not finding.ok
        assert finding.remedy
    finally:
        await driver.close()
