"""Pods of a real cluster as instances: the contract, and what only Kubernetes does."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError

import pytest
import yaml
from tests.houses import end, obtain, open_house
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.drivers.instances.kubernetes import KubernetesDriver
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.errors import (
    Forbidden,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Transient,
    Unreachable,
)
from gridcloud.instances.model import Handle, Kind, Observation, Offer, Phase, Request, Shape, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context, open_connection, read_output

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


def make_spec(owner: str = "ada", *, seconds: int = 0, image: str = "", **shape: Any) -> Spec:
    base = {"cpus": 0.1, "memory": 64 << 20}
    request = Request(**(base | shape), time=seconds, image=image)
    offer = Offer(provider="k", kind=Kind.CONTAINER, shape=Shape(**(base | shape)))
    return Spec(id=f"t-{secrets.token_hex(5)}", owner=owner, request=request, offer=offer)


async def until(driver: KubernetesDriver, spec: Spec, handle: Handle, *phases: Phase) -> Observation:
    async with asyncio.timeout(60):
        while True:
            seen = (await driver.observe({spec.id: handle}))[spec.id]
            if seen.phase in phases:
                return seen
            await asyncio.sleep(0.2)


async def running(driver: KubernetesDriver, spec: Spec) -> tuple[Handle, Observation]:
    handle = await driver.create(spec)
    seen = await until(driver, spec, handle, Phase.RUNNING, Phase.FAILED, Phase.GONE)
    assert seen.phase is Phase.RUNNING, seen.detail
    return handle, seen


async def says(seen: Observation, program: str) -> str:
    """Return what a shell program prints within an instance."""
    assert seen.address is not None
    connection = await open_connection(seen.address)
    try:
        return await read_output(connection, "sh", "-c", program)
    finally:
        await connection.close()


async def test_a_full_quota_is_told_before_and_when_asked(
    driver: KubernetesDriver, kubernetes_cluster: Cluster, namespace: str
) -> None:
    hard = {"limits.cpu": "300m", "requests.memory": "1Gi", "pods": "5"}
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    kubernetes_cluster.ask("POST", quotas, {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    async with asyncio.timeout(30):
        while True:
            if kubernetes_cluster.ask("GET", f"{quotas}/team")["status"].get("used"):
                break
            await asyncio.sleep(0.1)
    await driver.create(make_spec(cpus=0.2))
    (offer,) = await driver.offers(Request(cpus=0.2, memory=64 << 20))
    assert offer.possible
    assert not offer.available
    assert offer.why_not == "quota team (limits.cpu: 0.1 of 0.3 left, 0.2 asked)"
    with pytest.raises(QuotaExceeded, match="exceeded quota: team"):
        await driver.create(make_spec(cpus=0.2))
    (never,) = await driver.offers(Request(cpus=0.4, memory=64 << 20))
    assert (never.possible, never.shape.cpus) == (False, 0.3)
    assert any("quota team: limits.cpu 200m of 300m" in finding.message for finding in await driver.check())


async def test_a_limit_range_is_kept_to(
    driver: KubernetesDriver, kubernetes_cluster: Cluster, namespace: str
) -> None:
    limits = [{"type": "Container", "min": {"memory": "100Mi"}, "max": {"cpu": "500m"}}]
    place = f"/api/v1/namespaces/{namespace}/limitranges"
    kubernetes_cluster.ask("POST", place, {"metadata": {"name": "small"}, "spec": {"limits": limits}})
    (offer,) = await driver.offers(Request(cpus=0.1, memory=64 << 20))
    assert offer.shape.memory == 100 << 20
    (never,) = await driver.offers(Request(cpus=1, memory=64 << 20))
    assert "0.5 at most" in never.why_not
    with pytest.raises(InvalidRequest, match="maximum cpu usage per Container is 500m"):
        await driver.create(make_spec(cpus=1, memory=100 << 20))


async def test_an_image_that_is_not_there_fails_with_the_nodes_words(make_driver: MakeDriver) -> None:
    driver = make_driver(images=["none/*"])
    spec = make_spec(image="none/such:1")
    seen = await until(driver, spec, await driver.create(spec), Phase.RUNNING, Phase.FAILED)
    assert seen.phase is Phase.FAILED
    assert "none/such:1" in seen.detail
    with pytest.raises(InvalidRequest, match="allowed are"):
        await driver.create(make_spec(image="other:1"))


async def test_no_node_with_such_a_label_is_no_capacity(make_driver: MakeDriver) -> None:
    driver = make_driver(node_selector={"pool": "nowhere"})
    (offer,) = await driver.offers(Request(cpus=0.1, memory=64 << 20))
    assert not offer.possible
    with pytest.raises(NoCapacity, match="has no node with room"):
        await driver.create(make_spec())
    assert await driver.holdings() == []
    patient = make_driver(node_selector={"pool": "nowhere"}, queue="10m")
    spec = make_spec()
    handle = await patient.create(spec)
    seen = (await patient.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.PENDING
    assert "waits for a node" in seen.detail


async def test_nobody_is_root_or_becomes_it_or_speaks_to_the_cluster(driver: KubernetesDriver) -> None:
    _, seen = await running(driver, make_spec())
    status = await says(
        seen, "cat /proc/self/status; id; pwd; echo $HOME; stat -c %a $HOME; ls /var/run/secrets || :"
    )
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"
    assert status.splitlines()[-3:] == ["/gridcloud", "/gridcloud/home", "2700"]


async def test_it_ends_itself_when_its_time_is_over(driver: KubernetesDriver) -> None:
    spec = make_spec(seconds=600)
    handle, seen = await running(driver, spec)
    noted = int(await says(seen, "cat /etc/gridcloud/expires"))
    assert noted == pytest.approx(time.time() + 600 + 3600, abs=60)
    await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(hours=1))
    await driver.arm(spec.id, handle, datetime.now(UTC) - timedelta(minutes=4))
    async with asyncio.timeout(120):
        ended = await until(driver, spec, handle, Phase.GONE)
    assert "its time is over" in ended.detail
    with pytest.raises(NotFound):
        await driver.arm(
            spec.id, handle.model_copy(update={"data": handle.data | {"uid": "other"}}), datetime.now(UTC)
        )


async def test_the_cluster_ends_it_at_the_longest_life(make_driver: MakeDriver) -> None:
    driver = make_driver(longest="5s")
    spec = make_spec()
    handle, _ = await running(driver, spec)
    ended = await until(driver, spec, handle, Phase.GONE)
    assert "longest life" in ended.detail


async def test_more_memory_than_given_ends_the_program_not_the_node(driver: KubernetesDriver) -> None:
    _, seen = await running(driver, make_spec())
    assert seen.address is not None
    connection = await open_connection(seen.address)
    greedy = Command(("python3", "-c", "print(len(bytearray(200_000_000)))"))
    done = await connections.run(connection, greedy, timeout=60)
    await connection.close()
    assert done.code != 0


async def test_a_pod_of_the_same_name_is_not_ours(
    driver: KubernetesDriver, kubernetes_cluster: Cluster, namespace: str
) -> None:
    spec = make_spec()
    handle, _ = await running(driver, spec)
    place = f"/api/v1/namespaces/{namespace}/pods"
    name = handle.data["pod"]
    kubernetes_cluster.ask("DELETE", f"{place}/{name}?gracePeriodSeconds=0")
    assert (await until(driver, spec, handle, Phase.GONE)).detail
    container = {
        "name": "instance",
        "image": SESSION_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "99"],
    }
    stranger = {
        "metadata": {"name": name},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    async with asyncio.timeout(30):
        while True:
            try:
                kubernetes_cluster.ask("POST", place, stranger)
                break
            except HTTPError:
                await asyncio.sleep(0.3)  # the former is still on its way out
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    await driver.destroy(spec.id, handle)
    with pytest.raises(Transient, match="not ours"):
        await driver.create(spec)
    assert kubernetes_cluster.ask("GET", f"{place}/{name}")["metadata"].get("deletionTimestamp") is None


async def test_another_installation_touches_nothing_of_ours(driver: KubernetesDriver, tmp_path: Path) -> None:
    context = driver_context(tmp_path / "other", installation="another-house")
    other = KubernetesDriver(driver.settings, context)
    spec = make_spec()
    handle, _ = await running(driver, spec)
    assert await other.holdings() == []
    await other.destroy(spec.id, handle)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    await other.close()


async def test_a_home_is_kept_between_pods(
    make_driver: MakeDriver, kubernetes_cluster: Cluster, namespace: str
) -> None:
    for number in range(2):
        folder = kubernetes_cluster.folder / f"{namespace}-{number}"
        kubernetes_cluster.make_volume(folder, f"{namespace}-{number}")
    driver = make_driver(home_size="1GiB", storage_class="lab")
    first, other, later = make_spec("ada"), make_spec("Ada; rm -rf /"), make_spec("ada")
    _, seen = await running(driver, first)
    await says(seen, "echo kept > ~/notebook; echo lost > /gridcloud/scratch")
    _, theirs = await running(driver, other)
    assert await says(theirs, "ls ~") == ""
    await driver.destroy(first.id, None)
    _, again = await running(driver, later)
    assert await says(again, "cat ~/notebook; ls /gridcloud; touch ~/more") == "kept\nhome\n"
    assert {holding.what for holding in await driver.holdings()} == {"pod"}
    messages = [finding.message for finding in await driver.check()]
    assert any(message.startswith("2 homes are kept in claims") for message in messages)
    claims = kubernetes_cluster.ask("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims")["items"]
    assert all(
        re.fullmatch(r"gridcloud-home-[a-z0-9]{1,8}-[0-9a-f]{16}", one["metadata"]["name"]) for one in claims
    )


async def test_a_home_that_no_volume_serves_is_told_of(make_driver: MakeDriver) -> None:
    driver = make_driver(home_size="1GiB", storage_class="no-such-class", queue="1m")
    spec = make_spec()
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.PENDING
    assert "PersistentVolumeClaim" in seen.detail
    findings = await driver.check()
    assert any("no-such-class" in finding.message and not finding.ok for finding in findings)


def role_of_the_guide() -> list[dict[str, Any]]:
    """The rights that docs/guide/kubernetes.md says are enough, its optional ones left out."""
    page = (Path(__file__).parents[2] / "docs/guide/kubernetes.md").read_text()
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Role" in text]
    rules: list[dict[str, Any]] = yaml.safe_load(block)["rules"]
    return [rule for rule in rules if "resourcequotas" not in rule["resources"]]


async def test_a_role_in_one_namespace_is_enough(
    make_driver: MakeDriver, kubernetes_cluster: Cluster, namespace: str
) -> None:
    driver = make_driver(kubeconfig=str(kubernetes_cluster.tenant_kubeconfig))
    findings = [finding for finding in await driver.check() if not finding.ok]
    assert len(findings) == 1
    assert "do not allow: create pods, get pods" in findings[0].message
    refused = make_spec()
    with pytest.raises(Forbidden):
        await driver.create(refused)
    await driver.destroy(refused.id, None)  # not to be made is not to be waited for
    with pytest.raises(Forbidden):
        await driver.destroy("t-another", None)
    kubernetes_cluster.allow_tenant(namespace, role_of_the_guide())
    await asyncio.sleep(1)  # the API server takes roles in from its own watch
    findings = list(await driver.check())
    assert all(finding.ok for finding in findings)
    assert any("nodes may not be listed" in finding.message for finding in findings)
    (offer,) = await driver.offers(Request(cpus=0.1, memory=64 << 20))
    assert offer.available
    spec = make_spec()
    _, seen = await running(driver, spec)
    assert await says(seen, "echo here") == "here\n"
    await driver.destroy(spec.id, None)


async def test_credentials_that_are_not_accepted_say_so(
    make_driver: MakeDriver, kubernetes_cluster: Cluster, tmp_path: Path
) -> None:
    text = kubernetes_cluster.kubeconfig.read_text()
    wrong = tmp_path / "wrong"
    wrong.write_text(re.sub(r"token: \w+", "token: expired", text))
    driver = KubernetesDriver(
        KubernetesSettings(driver="kubernetes", kubeconfig=str(wrong), image=SESSION_IMAGE),
        driver_context(tmp_path / "driver"),
    )
    with pytest.raises(InvalidSettings, match="may have expired"):
        await driver.offers(Request())
    (finding,) = await driver.check()
    assert not finding.ok
    assert "Log in" in finding.remedy
    await driver.close()


async def test_a_cluster_that_is_gone_says_nothing_of_instances(
    tmp_path: Path, kubernetes_cluster: Cluster
) -> None:
    text = kubernetes_cluster.kubeconfig.read_text()
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(text.replace(":6443", ":6444"))
    driver = KubernetesDriver(
        KubernetesSettings(driver="kubernetes", kubeconfig=str(nowhere), image=SESSION_IMAGE),
        driver_context(tmp_path / "driver"),
    )
    handle = Handle(data={"pod": "x", "uid": "y", "namespace": "default", "context": "lab"})
    with pytest.raises(Unreachable, match="6444"):
        await driver.observe({"t-some": handle})
    with pytest.raises(Unreachable):
        await driver.destroy("t-some", handle)
    (finding,) = await driver.check()
    assert not finding.ok
    await driver.close()


@pytest.mark.parametrize("way", ["token", "token-file", "certificate", "certificate-files", "plugin"])
async def test_ways_to_prove_who_one_is(
    make_driver: MakeDriver, kubernetes_cluster: Cluster, tmp_path: Path, way: str
) -> None:
    config = yaml.safe_load(kubernetes_cluster.kubeconfig.read_text())
    token, keys = config["users"][0]["user"]["token"], kubernetes_cluster.folder / "keys"
    certificate, key = keys / "client.crt", keys / "client.key"
    (tmp_path / "token").write_text(token)
    plugin = tmp_path / "plugin"
    said = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "status": {"token": token},
    }
    plugin.write_text(f"#!/bin/sh\necho x >>{tmp_path}/asked\ncat <<'END'\n{json.dumps(said)}\nEND\n")
    plugin.chmod(0o755)
    users: dict[str, dict[str, Any]] = {
        "token": {"token": token},
        "token-file": {"tokenFile": str(tmp_path / "token")},
        "certificate": {
            "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
            "client-key-data": base64.b64encode(key.read_bytes()).decode(),
        },
        "certificate-files": {"client-certificate": str(certificate), "client-key": str(key)},
        "plugin": {"exec": {"apiVersion": said["apiVersion"], "command": str(plugin)}},
    }
    config["users"][0]["user"] = users[way]
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    driver = make_driver(kubeconfig=str(tmp_path / "config"))
    assert all(finding.ok for finding in await driver.check())
    spec = make_spec()
    handle, seen = await running(driver, spec)
    assert await says(seen, "echo here") == "here\n"
    assert token not in handle.model_dump_json() + seen.model_dump_json()
    await driver.destroy(spec.id, handle)


async def test_pods_of_a_namespace_that_the_entry_no_longer_names_are_seen_and_ended(
    kubernetes_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    other = kubernetes_cluster.make_namespace(f"n{secrets.token_hex(4)}")
    entry = {
        "driver": "kubernetes", "kubeconfig": str(kubernetes_cluster.kubeconfig), "image": SESSION_IMAGE,
        "pull": "Never", "namespace": namespace,
    }  # fmt: skip

    def pods(place: str) -> list[str]:
        items = kubernetes_cluster.ask("GET", f"/api/v1/namespaces/{place}/pods")["items"]
        return [one["metadata"]["name"] for one in items if not one["metadata"].get("deletionTimestamp")]

    async with open_house(tmp_path, {"pods": entry}) as house:
        instance = await obtain(house, cpus=0.1, memory=64 << 20)
        assert len(pods(namespace)) == 1
    async with open_house(tmp_path, {"pods": entry | {"namespace": other}}) as house:
        assert await house.reconciliation.examine() == []
        (offer,) = await house.providers.offers(instance.request)
        assert "another place" in offer.why_not
        await end(house, instance)
        assert pods(namespace) == []
        moved = await obtain(house, cpus=0.1, memory=64 << 20)
        assert len(pods(other)) == 1
        await end(house, moved)
