"""The `magnum` driver, through OpenStack's own library on a server that speaks Magnum's API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from tests.labs.magnum import Magnum, magnum_server

from gridcloud.clusters.model import ClusterHandle, ClusterPhase, ClusterRequest
from gridcloud.drivers.clusters.magnum import MagnumDriver
from gridcloud.drivers.clusters.magnum_settings import MagnumSettings
from gridcloud.errors import (
    GridcloudError,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Rejected,
    Transient,
    Untrusted,
)
from gridcloud.testing.clusters import ClusterDriverContract, cluster_context

pytestmark = [
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]


@pytest.fixture
def magnum() -> Iterator[Magnum]:
    with magnum_server() as magnum:
        yield magnum


class MagnumContract(ClusterDriverContract):
    """The contract, on the server."""

    @pytest.fixture
    async def driver(self, magnum: Magnum, tmp_path: Path) -> AsyncIterator[MagnumDriver]:
        driver = MagnumDriver(settings(magnum, tmp_path), cluster_context(tmp_path / "provider"))
        yield driver
        magnum.fails.clear()
        magnum.faults.clear()
        await driver.close()


def settings(magnum: Magnum, folder: Path, **more: Any) -> MagnumSettings:
    words = {"driver": "magnum", "cloud": "lab", "clouds_file": magnum.clouds(folder)}
    versions = {"1.30": "kubernetes-1.30", "1.31": "t-131"}
    return MagnumSettings.model_validate(
        {**words, "template": "kubernetes-1.31", "versions": versions, **more}
    )


class TestMagnum(MagnumContract):
    async def test_what_is_ordered(self, driver: MagnumDriver, magnum: Magnum) -> None:
        spec = self.spec(owner="a b; touch /tmp/x", version="1.30", shape="large", nodes=4)
        await driver.create(spec)
        [one] = magnum.clusters.values()
        assert one["name"].startswith("gridcloud-")
        assert one["name"].endswith(spec.id)
        assert (one["cluster_template_id"], one["flavor_id"], one["node_count"]) == ("t-130", "f2", 4)
        assert one["labels"] == {
            "kube_tag": "v1.31.1",
            "gridcloud_installation": "gridcloud-test",
            "gridcloud_cluster": spec.id,
        }

    async def test_a_shape_is_found_for_what_is_asked(self, driver: MagnumDriver, magnum: Magnum) -> None:
        await driver.create(self.spec(cpus=4.0))
        assert [one["flavor_id"] for one in magnum.clusters.values()] == ["f2"]
        for asked in ({"cpus": 99.0}, {"gpus": 1}, {"version": "1.5"}):
            with pytest.raises(Rejected):
                await driver.create(self.spec(**asked))

    async def test_ours_by_name_where_labels_are_not_listed(
        self, driver: MagnumDriver, magnum: Magnum
    ) -> None:
        magnum.tells_labels = False
        spec = self.spec()
        assert await driver.create(spec) == await driver.create(spec)
        assert await self.held(driver) == [spec.id]
        await self.gone(driver, spec.id, None)
        assert magnum.clusters == {}

    async def test_what_is_not_ours_is_left_alone(
        self, driver: MagnumDriver, magnum: Magnum, tmp_path: Path
    ) -> None:
        spec = self.spec()
        await driver.create(spec)
        other = MagnumDriver(driver.settings, cluster_context(tmp_path / "other", installation="another"))
        assert await other.holdings() == []
        assert await other.destroy(spec.id, None)
        assert len(magnum.clusters) == 1
        await other.close()

    @pytest.mark.parametrize("id", ["../../elsewhere/config", "", "K", "a b", "x" * 200])
    async def test_labels_that_are_no_id_are_not_ours(
        self, driver: MagnumDriver, magnum: Magnum, tmp_path: Path, id: str
    ) -> None:
        """Whoever may make clusters in the project can write our labels."""
        (tmp_path / "elsewhere").mkdir()
        theirs = tmp_path / "elsewhere" / "config.kubeconfig"
        theirs.write_text("theirs")
        spec = self.spec()
        await driver.create(spec)
        [one] = magnum.clusters.values()
        one["labels"]["gridcloud_cluster"] = id
        assert await driver.holdings() == []
        one["labels"]["gridcloud_cluster"] = spec.id
        assert theirs.read_text() == "theirs"

    @pytest.mark.parametrize(
        ("part", "value", "said"),
        [
            ("api_address", "http://192.0.2.9:6443", "is not https"),
            ("ca", "", "certificates of the cluster are none"),
            ("ca", "not a certificate", "certificates of the cluster are none"),
        ],
    )
    async def test_access_that_cannot_be_trusted_is_not_written(
        self, driver: MagnumDriver, magnum: Magnum, part: str, value: str, said: str
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        [one] = magnum.clusters.values()
        one[part] = value
        with pytest.raises(Untrusted, match=said):
            await driver.kubeconfig(spec.id, handle)
        assert not driver.context.kubeconfig(spec.id).exists()

    async def test_nodes_by_flavor_and_template(self, magnum: Magnum, tmp_path: Path) -> None:
        words = settings(magnum, tmp_path, gpus={"l*": 2})
        driver = MagnumDriver(words, cluster_context(tmp_path / "provider"))
        for asked, name, gpus in (
            ({}, "small", 0),
            ({"shape": "large"}, "large", 2),
            ({"shape": "f1", "gpus": 1}, "small", 1),
            ({"cpus": 4}, "large", 2),
        ):
            node = await driver.node(ClusterRequest.model_validate(asked))
            assert (node.name, node.gpus) == (name, gpus)
        await driver.close()

    async def test_twins_become_one(self, driver: MagnumDriver, magnum: Magnum, tmp_path: Path) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        [one] = magnum.clusters.values()
        magnum.clusters["twin"] = {**one, "uuid": "twin", "created_at": "2999-01-01T00:00:00+00:00"}
        assert await driver.create(spec) == handle
        for _ in range(500):
            if len(await driver.holdings()) == 1:
                break
            await asyncio.sleep(0.02)
        assert list(magnum.clusters) == [one["uuid"]]

    async def test_a_twin_that_comes_late_is_removed(self, driver: MagnumDriver, magnum: Magnum) -> None:
        """Its order was given before a crash, and taken after the one that was given afterwards."""
        spec = self.spec()
        handle = await driver.create(spec)
        [one] = magnum.clusters.values()
        magnum.clusters["twin"] = {**one, "uuid": "twin", "created_at": "2999-01-01T00:00:00+00:00"}
        theirs = {**one["labels"], "gridcloud_installation": "another"}
        magnum.clusters["theirs"] = {**one, "uuid": "theirs", "labels": theirs}
        for _ in range(500):
            await driver.observe({spec.id: handle})
            if len(magnum.clusters) == 2:
                break
            await asyncio.sleep(0.02)
        assert list(magnum.clusters) == [one["uuid"], "theirs"]

    async def test_an_answer_that_was_lost_makes_one(self, driver: MagnumDriver, magnum: Magnum) -> None:
        spec = self.spec()
        magnum.faults.append(("POST", "/clusters", 0))
        with pytest.raises(Transient):
            await driver.create(spec)
        await driver.create(spec)
        assert len(magnum.clusters) == 1

    async def test_a_cluster_that_could_not_be_made(self, driver: MagnumDriver, magnum: Magnum) -> None:
        magnum.fails.append("CREATE")
        spec = self.spec()
        handle = await driver.create(spec)
        async with asyncio.timeout(10):
            while True:
                seen = (await driver.observe({spec.id: handle}))[spec.id]
                if seen.phase is ClusterPhase.FAILED:
                    break
                await asyncio.sleep(0.02)
        assert "no valid host" in seen.detail

    async def test_a_change_that_failed_is_told_and_can_be_asked_again(
        self, driver: MagnumDriver, magnum: Magnum
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        magnum.fails.append("UPDATE")
        await driver.scale(spec.id, handle, 5)
        seen = await self.ready(driver, spec, handle)
        assert (seen.nodes, "no valid host" in seen.problem) == (self.request_.nodes, True)
        await self.scaled_at_last(driver, spec, handle, 5)

    async def scaled_at_last(self, driver: MagnumDriver, spec: Any, handle: Any, nodes: int) -> None:
        await driver.scale(spec.id, handle, nodes)
        seen = await self.ready(driver, spec, handle)
        assert (seen.nodes, seen.problem) == (nodes, "")

    async def test_a_removal_that_failed_is_asked_again(self, driver: MagnumDriver, magnum: Magnum) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        magnum.fails.append("DELETE")
        with pytest.raises(Transient, match="no valid host"):
            await self.gone(driver, spec.id, handle)
        await self.gone(driver, spec.id, handle)

    async def test_quota(self, driver: MagnumDriver, magnum: Magnum) -> None:
        magnum.nodes = 3
        with pytest.raises(QuotaExceeded, match="maximum nodes"):
            await driver.create(self.spec(nodes=4))
        spec = self.spec(nodes=2)
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        with pytest.raises(QuotaExceeded):
            await driver.scale(spec.id, handle, 4)
        assert (await self.ready(driver, spec, handle)).nodes == 2

    async def test_access_is_signed_by_the_cluster(self, driver: MagnumDriver, magnum: Magnum) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        document = yaml.safe_load((await driver.kubeconfig(spec.id, handle)).read_text())
        assert document["clusters"][0]["cluster"]["server"] == "https://192.0.2.9:6443"
        user = document["users"][0]["user"]
        mine = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))
        authority = document["clusters"][0]["cluster"]["certificate-authority-data"]
        mine.verify_directly_issued_by(x509.load_pem_x509_certificate(base64.b64decode(authority)))
        assert "system:masters" in mine.subject.rfc4514_string()
        assert b"PRIVATE KEY" in base64.b64decode(user["client-key-data"])


async def test_credentials_of_another_project_say_nothing_of_our_clusters(
    magnum: Magnum, tmp_path: Path
) -> None:
    driver = MagnumDriver(settings(magnum, tmp_path), cluster_context(tmp_path / "provider"))
    spec = TestMagnum().spec()
    handle = await driver.create(spec)
    await driver.close()  # as after a restart
    magnum.project = "another"
    with pytest.raises(InvalidSettings, match="another project, another; its clusters are in p1"):
        await driver.observe({spec.id: handle})
    for call in (
        driver.scale(spec.id, handle, 3),
        driver.destroy(spec.id, handle),
        driver.kubeconfig(spec.id, handle),
    ):
        with pytest.raises(InvalidSettings, match="another project"):
            await call
    magnum.project = "p1"  # clouds.yaml was put right
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is not ClusterPhase.GONE
    old = ClusterHandle(data={"uuid": handle.data["uuid"]})
    assert (await driver.observe({spec.id: old}))[spec.id].phase is not ClusterPhase.GONE
    await driver.close()


async def test_what_is_wrong_is_said(magnum: Magnum, tmp_path: Path) -> None:
    class Specs(ClusterDriverContract):
        pass

    for more, kind, words in (
        ({"cloud": "nowhere"}, InvalidSettings, "nowhere"),
        ({"clouds_file": tmp_path / "none.yaml"}, InvalidSettings, "no file"),
        ({"template": "gone"}, Rejected, "no cluster template 'gone'"),
        ({"template": "swarm"}, Rejected, "makes no Kubernetes"),
    ):
        driver = MagnumDriver(settings(magnum, tmp_path, **more), cluster_context(tmp_path / "provider"))
        with pytest.raises(kind, match=words):
            await driver.create(Specs().spec())
        assert not all(one.ok for one in await driver.check())
        await driver.close()
    assert magnum.clusters == {}


async def test_answers_that_refuse(magnum: Magnum, tmp_path: Path) -> None:
    driver = MagnumDriver(settings(magnum, tmp_path), cluster_context(tmp_path / "provider"))
    assert all(one.ok for one in await driver.check())
    for status, kind in (
        (500, Transient),
        (503, Transient),
        (404, NotFound),
        (400, Rejected),
        (403, Rejected),
    ):
        magnum.faults.append(("GET", "/clusters", status))
        with pytest.raises(kind):
            await driver.holdings()
    path = magnum.clouds(tmp_path)
    path.write_text(path.read_text().replace("only-for-the-lab", "wrong"))
    other = MagnumDriver(driver.settings, driver.context)
    with pytest.raises(GridcloudError, match="credentials are refused"):
        await other.holdings()
    await driver.close()
    await other.close()
    assert ClusterRequest().nodes == 1
