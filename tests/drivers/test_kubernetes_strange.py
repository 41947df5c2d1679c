"""The kubernetes driver at a cluster, or a proxy before one, whose answers are none: nothing is taken for gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.labs.lying_cluster import LyingCluster

from gridcloud.drivers.instances.kubernetes import KubernetesDriver
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.errors import InvalidSettings, Transient
from gridcloud.instances.model import Handle, Phase
from gridcloud.testing.instances import driver_context

PODS = "/api/v1/namespaces/n/pods"
EMPTY = {"kind": "PodList", "metadata": {}, "items": []}
HANDLE = Handle(data={"pod": "p", "uid": "u", "namespace": "n", "context": "x"})


def driver_at(cluster: LyingCluster, folder: Path) -> KubernetesDriver:
    entry = {"driver": "kubernetes", "image": "team/session:1", "kubeconfig": str(cluster.kubeconfig)}
    return KubernetesDriver(KubernetesSettings.model_validate(entry), driver_context(folder))


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"kind": "Status", "status": "Success"}, {"kind": "Pod", "items": []}, {"items": []},
        '{"kind": "PodList", "metadata": {}, "items": [', "", "<html>", "[]",
    ],
)  # fmt: skip
async def test_what_is_no_list_is_not_an_empty_one(tmp_path: Path, answer: Any) -> None:
    async with LyingCluster(tmp_path) as cluster:
        driver = driver_at(cluster, tmp_path / "driver")
        cluster.answers[PODS] = answer
        with pytest.raises(Transient):
            await driver.observe({"i-1": HANDLE})
        with pytest.raises(Transient):
            await driver.holdings()
        with pytest.raises(Transient):
            await driver.destroy("i-1", HANDLE)
        cluster.answers[PODS] = EMPTY
        assert (await driver.observe({"i-1": HANDLE}))["i-1"].phase is Phase.GONE
        await driver.close()


async def test_a_list_whose_next_part_has_expired_is_asked_for_again(tmp_path: Path) -> None:
    async with LyingCluster(tmp_path) as cluster:
        driver = driver_at(cluster, tmp_path / "driver")
        cluster.answers[PODS] = [EMPTY | {"metadata": {"continue": "c"}}, web.HTTPGone(text="{}"), EMPTY]
        with pytest.raises(Transient):
            await driver.holdings()
        assert await driver.holdings() == []
        await driver.close()


async def test_another_cluster_under_the_same_names_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    pod = {
        "metadata": {"name": "p", "uid": "u", "labels": {}, "annotations": {}},
        "spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"},
    }  # fmt: skip
    async with LyingCluster(tmp_path / "right") as right, LyingCluster(tmp_path / "wrong") as wrong:
        right.answers[PODS], wrong.answers[PODS] = EMPTY | {"items": [pod]}, EMPTY
        driver = driver_at(right, tmp_path / "driver")
        made_in = (await driver._namespace()).cluster
        handle = Handle(data={**HANDLE.data, "cluster": made_in})
        assert "exit code" in (await driver.observe({"i-1": handle}))["i-1"].detail
        await driver.close()
        config = right.kubeconfig.read_text()
        right.kubeconfig.write_text(wrong.kubeconfig.read_text())
        with pytest.raises(InvalidSettings, match="another cluster"):
            await driver.observe({"i-1": handle})
        with pytest.raises(InvalidSettings, match="another cluster"):
            await driver.destroy("i-1", handle)
        # Once it is put right, nothing has to be started anew.
        right.kubeconfig.write_text(config)
        assert "exit code" in (await driver.observe({"i-1": handle}))["i-1"].detail
        right.answers[PODS] = EMPTY
        assert (await driver.observe({"i-1": handle}))["i-1"].phase is Phase.GONE
        await driver.destroy("i-1", handle)
        await driver.close()
