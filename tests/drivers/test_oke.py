"""The oke driver on our server of Oracle's words: the contract of clusters, and what goes wrong with nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.labs.oracle import Oracle

from gridcloud.clusters.model import ClusterPhase, ClusterRequest
from gridcloud.drivers.clusters.oke import INSTALLATION, OKEDriver
from gridcloud.drivers.clusters.oke_settings import OKESettings
from gridcloud.errors import (
    Conflict,
    InvalidRequest,
    InvalidSettings,
    NotAuthenticated,
    QuotaExceeded,
    Transient,
    Untrusted,
)
from gridcloud.testing.clusters import ClusterDriverContract, cluster_context


@pytest.fixture(scope="module")
def campus() -> Iterator[Oracle]:
    """A cloud with a VCN and three subnets of the campus."""
    with Oracle() as cloud:
        cloud.tenancy.seconds = 0.05
        add_networks(cloud)
        yield cloud


def add_networks(cloud: Oracle) -> None:
    """Give the compartment `lab` a VCN and three subnets."""
    lab = cloud.tenancy.add_compartment("lab")
    here = {"compartmentId": lab, "lifecycleState": "AVAILABLE"}
    vcn = cloud.tenancy.add("vcn", {**here, "cidrBlock": "10.0.0.0/16", "displayName": "campus"})
    for number, name in enumerate(("api", "nodes", "balancers")):
        words = {"vcnId": vcn.id, "displayName": name, "cidrBlock": f"10.0.{number}.0/24"}
        cloud.tenancy.add("subnet", {**here, **words, "prohibitPublicIpOnVnic": False})


@pytest.fixture
def cloud(campus: Oracle) -> Iterator[Oracle]:
    yield campus
    campus.tenancy.limits.clear()
    campus.tenancy.faults.clear()


@pytest.fixture(scope="module")
def config(campus: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return campus.write_config(tmp_path_factory.mktemp("oke"))


def make_driver(
    cloud: Oracle, config: Path, folder: Path, installation: str = "gridcloud-test", **more: Any
) -> OKEDriver:
    settings = OKESettings.model_validate(entry_of(cloud, config) | more)
    return OKEDriver(settings, cluster_context(folder, installation=installation))


def entry_of(cloud: Oracle, config: Path) -> dict[str, Any]:
    """Return the entry of a provider on these networks."""
    return {
        "driver": "oke",
        "compartment": "lab",
        "config_file": str(config),
        "endpoint": cloud.url,
        "vcn": "campus",
        "api_subnet": "api",
        "node_subnet": "nodes",
        "load_balancer_subnets": "balancers",
    }


class TestOKEDriver(ClusterDriverContract):
    @pytest.fixture
    async def driver(self, cloud: Oracle, config: Path, tmp_path: Path) -> AsyncIterator[OKEDriver]:
        driver = make_driver(cloud, config, tmp_path / "driver")
        yield driver
        await driver.close()

    async def test_a_node_has_what_is_asked(self, cloud: Oracle, driver: OKEDriver) -> None:
        spec = self.spec(cpus=6, memory=24 * 1024**3, version="1.31")
        handle = await driver.create(spec)
        seen = await self.ready(driver, spec, handle)
        assert seen.version == "1.31.10"
        pool = next(one for one in cloud.tenancy.of("nodepool", lifecycleState="ACTIVE"))
        assert pool.words["nodeShapeConfig"] == {"ocpus": 3.0, "memoryInGBs": 24.0}
        assert pool.words["nodeSourceDetails"]["imageId"] == "ocid1.image.oc1..v1.31.10761"
        assert pool.tags[INSTALLATION] == "gridcloud-test"
        assert len(pool.words["nodeConfigDetails"]["placementConfigs"]) == 2

    async def test_every_size_of_a_flexible_shape_has_a_name_for_its_price(self, driver: OKEDriver) -> None:
        small = await driver.node(ClusterRequest(cpus=2, memory=8 * 1024**3))
        large = await driver.node(ClusterRequest(cpus=6, memory=24 * 1024**3))
        assert small.name.endswith(".Flex:1:8")
        assert large.name.endswith(".Flex:3:24")
        assert (await driver.node(ClusterRequest(gpus=1))).gpus == 1

    async def test_gpus_and_arm_get_their_images(self, cloud: Oracle, driver: OKEDriver) -> None:
        for asked, edition in (({"gpus": 1}, "-Gen2-GPU"), ({"shape": "VM.Standard.A1.Flex"}, "-aarch64")):
            handle = await driver.create(self.spec(**asked))
            assert edition in handle.data["plan"]["image"]

    async def test_access_is_by_the_account_of_the_configuration(
        self, config: Path, driver: OKEDriver
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        document = yaml.safe_load((await driver.kubeconfig(spec.id, handle)).read_text())
        command = document["users"][0]["user"]["exec"]
        assert {"name": "OCI_CLI_CONFIG_FILE", "value": str(config)} in command["env"]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("command: oci", "command: sh"),
            ("- generate-token", "- raw-request"),
            ("https://", "http://"),
            ("user:", "token: x\n  other:"),
            ("kind: Config", "kind: [Config"),
        ],
    )
    async def test_access_that_runs_something_else_is_not_written(
        self, driver: OKEDriver, before: str, after: str
    ) -> None:
        text = (
            "kind: Config\nclusters:\n- name: c\n  cluster: {server: 'https://203.0.113.1:6443'}\n"
            "users:\n- name: u\n  user:\n    exec:\n      command: oci\n"
            "      args:\n      - ce\n      - cluster\n      - generate-token\n"
        )
        assert "OCI_CLI_PROFILE" in driver._with_account(text)
        with pytest.raises(Untrusted):
            driver._with_account(text.replace(before, after))

    @pytest.mark.parametrize("part", ["clusters", "nodePools"])
    async def test_a_lost_answer_makes_one(self, cloud: Oracle, driver: OKEDriver, part: str) -> None:
        spec = self.spec()
        cloud.tenancy.fail("POST", f"/{part}$", done=True)
        try:
            handle = await driver.create(spec)
        except Transient:
            handle = await driver.create(spec)
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.ready(driver, spec, handle)
                    break
                except Transient:
                    continue
        assert len([one for one in await driver.holdings() if one.cluster_id == spec.id]) == 2

    async def test_a_quota_refuses_more_nodes_and_the_cluster_stays(
        self, cloud: Oracle, driver: OKEDriver
    ) -> None:
        cloud.tenancy.limits["node-count"] = 3
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        with pytest.raises(QuotaExceeded):
            await driver.scale(spec.id, handle, 9)
        assert (await self.ready(driver, spec, handle)).nodes == 2

    async def test_nodes_in_trouble_are_a_problem_of_a_cluster_that_can_be_used(
        self, cloud: Oracle, driver: OKEDriver
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        (pool,) = cloud.tenancy.of("nodepool", lifecycleState="ACTIVE")
        pool.become("NEEDS_ATTENTION")
        pool.words["lifecycleDetails"] = "Out of host capacity."
        seen = await self.ready(driver, spec, handle)
        assert seen.problem == "Out of host capacity."
        (cluster,) = cloud.tenancy.of("cluster", lifecycleState="ACTIVE")
        cluster.become("FAILED")
        assert (await driver.observe({spec.id: handle}))[spec.id].phase is ClusterPhase.FAILED

    async def test_tags_that_are_no_id_are_not_ours(self, cloud: Oracle, driver: OKEDriver) -> None:
        spec = self.spec()
        await self.ready(driver, spec, await driver.create(spec))
        (cluster,) = cloud.tenancy.of("cluster", lifecycleState="ACTIVE")
        cluster.tags["gridcloud-cluster"] = "../../elsewhere/config"
        assert "cluster" not in [one.what for one in await driver.holdings()]
        cluster.tags["gridcloud-cluster"] = spec.id

    async def test_another_installation_touches_nothing_of_ours(
        self, cloud: Oracle, config: Path, driver: OKEDriver, tmp_path: Path
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        other = make_driver(cloud, config, tmp_path / "other", installation="another")
        try:
            assert await other.holdings() == []
            assert await other.destroy(spec.id, handle)
        finally:
            await other.close()
        assert (await driver.observe({spec.id: handle}))[spec.id].phase is ClusterPhase.READY


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "LimitExceeded", QuotaExceeded),
        (401, "NotAuthenticated", NotAuthenticated),
        (409, "IncorrectState", Conflict),
        (500, "InternalError", Transient),
        (400, "InvalidParameter", InvalidRequest),
    ],
)
async def test_refusals(
    cloud: Oracle, config: Path, tmp_path: Path, status: int, code: str, kind: type[Exception]
) -> None:
    driver = make_driver(cloud, config, tmp_path / "driver")
    spec = ClusterDriverContract().spec()
    cloud.tenancy.fail("POST", "/clusters$", status=status, code=code, message="It is refused.")
    with pytest.raises(kind, match="It is refused"):
        await driver.create(spec)
    assert await driver.destroy(spec.id, None)
    await driver.close()


async def test_networks_and_versions_that_are_not_there_are_said(
    cloud: Oracle, config: Path, tmp_path: Path
) -> None:
    driver = make_driver(cloud, config, tmp_path / "driver", node_subnet="nowhere")
    findings = {one.subject.rpartition(" ")[2]: one for one in await driver.check()}
    assert not findings["network"].ok
    assert "'nowhere'" in findings["network"].message
    assert findings["version"].ok
    with pytest.raises(InvalidSettings, match="nowhere"):
        await driver.create(ClusterDriverContract().spec())
    await driver.close()
    driver = make_driver(cloud, config, tmp_path / "driver")
    spec = ClusterDriverContract().spec()
    with pytest.raises(InvalidRequest, match=r"no Kubernetes '1\.19'"):
        await driver.create(spec.model_copy(update={"request": ClusterRequest(version="1.19")}))
    await driver.close()
