"""Connections into pods of a real cluster: the contract, and what only pods do."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.connections.model import PodAddress
from gridcloud.connections.pod import PodConnection
from gridcloud.errors import ConnectionLost, Forbidden, Rejected, TimedOut
from gridcloud.testing.connections import Connect, ConnectionContract

pytestmark = [pytest.mark.lab, pytest.mark.needs_root]


@contextmanager
def pod(
    cluster: Cluster, mounts: Sequence[dict[str, str]] = (), path: str = "", **spec: Any
) -> Iterator[PodAddress]:
    """A pod in a namespace of its own, with an empty folder at /work."""
    namespace = cluster.make_namespace(f"n{secrets.token_hex(4)}")
    container = {
        "name": "main", "image": SESSION_IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sleep", "3600"],
        "volumeMounts": [{"name": "work", "mountPath": "/work"}, *mounts],
        "env": [{"name": "PATH", "value": path}] if path else [],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
    }  # fmt: skip
    body = {
        "metadata": {"name": "one"},
        "spec": {
            "containers": [container], "volumes": [{"name": "work", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0, "securityContext": {"fsGroup": 1000},
        } | spec,
    }  # fmt: skip
    place = f"/api/v1/namespaces/{namespace}/pods"
    cluster.ask("POST", place, body)
    deadline = (
        time.monotonic() + 200
    )  # the first of a cluster waits for its image, on a machine with other work
    while (made := cluster.ask("GET", f"{place}/one"))["status"]["phase"] != "Running":
        assert time.monotonic() < deadline, made["status"]
        time.sleep(0.1)
    yield PodAddress(
        kubeconfig=str(cluster.kubeconfig), namespace=namespace, pod="one", uid=made["metadata"]["uid"],
        container="main", directory="/work",
    )  # fmt: skip
    cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.fixture(scope="module")
def address(kubernetes_cluster: Cluster) -> Iterator[PodAddress]:
    with pod(kubernetes_cluster) as made:
        yield made


class TestPodConnection(ConnectionContract):
    @pytest.fixture
    async def connect(self, address: PodAddress) -> Connect:
        return lambda: PodConnection.open(address)


async def test_a_pod_that_is_removed_is_told_of(kubernetes_cluster: Cluster) -> None:
    with pod(kubernetes_cluster) as address:
        connection = await PodConnection.open(address)
        process = await connection.start(Command(("sleep", "60")))
        place = f"/api/v1/namespaces/{address.namespace}/pods/{address.pod}"
        kubernetes_cluster.ask("DELETE", f"{place}?gracePeriodSeconds=0")
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(process.wait(), 30)
        await asyncio.wait_for(connection.wait_closed(), 10)
        with pytest.raises(ConnectionLost, match=r"gone|removed"):
            await connection.check()
        await connection.close()
        with pytest.raises(ConnectionLost, match=r"gone|removed"):
            await PodConnection.open(address)


async def test_another_pod_of_the_same_name_is_not_entered(address: PodAddress) -> None:
    with pytest.raises(ConnectionLost, match="another pod has its name"):
        await PodConnection.open(address.model_copy(update={"uid": "another"}))


async def test_without_the_right_to_enter_pods_it_says_so(
    kubernetes_cluster: Cluster, address: PodAddress
) -> None:
    theirs = address.model_copy(update={"kubeconfig": str(kubernetes_cluster.tenant_kubeconfig)})
    with pytest.raises(Forbidden, match=r'cannot get resource "pods"'):
        await PodConnection.open(theirs)
    kubernetes_cluster.allow_tenant(
        address.namespace, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    )
    with pytest.raises(Forbidden, match="pods/exec"):
        await PodConnection.open(theirs)


async def test_a_shell_without_python_is_refused(kubernetes_cluster: Cluster) -> None:
    hidden = [{"name": "hidden", "emptyDir": {}}, {"name": "work", "emptyDir": {}}]
    mounts = [{"name": "hidden", "mountPath": path} for path in ("/usr/local/bin", "/opt/gridcloud-session")]
    with (
        pod(kubernetes_cluster, mounts=mounts, volumes=hidden, path="/usr/local/bin") as address,
        pytest.raises(Rejected, match="python3"),
    ):
        await PodConnection.open(address)


async def test_what_a_cut_connection_started_is_ended(address: PodAddress) -> None:
    watching, cut = await PodConnection.open(address), await PodConnection.open(address)
    process = await cut.start(Command(("sh", "-c", "sleep 3601 & echo $!; wait")))
    child = int(await anext(process.stdout()))
    assert cut._stream is not None
    cut._stream._websocket._response.close()  # as when the network in between goes, without a word
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(process.wait(), 10)
    lives = f"case $(cat /proc/{child}/stat 2>/dev/null) in ''|*') Z '*) exit 0;; esac"
    ended = Command(("sh", "-c", f"while :; do {lives}; sleep 0.1; done"))
    await connections.run(watching, ended, timeout=20)
    await cut.close()
    await watching.close()


async def test_commands_leave_nothing_open(address: PodAddress) -> None:
    connection = await PodConnection.open(address)
    await connections.run(connection, Command(("true",)))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        await connections.run(connection, Command(("sh", "-c", "echo x; echo y >&2")))
        with pytest.raises(TimedOut):
            await connections.run(connection, Command(("sleep", "9")), timeout=0.01)
    async with asyncio.timeout(10):
        while True:
            if len(os.listdir("/proc/self/fd")) <= before + 4 and not connection._processes:
                break
            await asyncio.sleep(0.1)
    await connection.close()
