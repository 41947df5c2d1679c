"""Sessions in pods whose agents dial the service: nothing goes through exec of the cluster's API."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

import gridcloud
from gridcloud import connections
from gridcloud.connections.model import PodAddress, SSHAddress
from gridcloud.instances.model import Request
from gridcloud.testing.connections import FileCredentials
from gridcloud.testing.instances import read_output
from tests.houses import end, link, story
from tests.labs.kubernetes import SESSION_IMAGE, Cluster
from tests.services import make_certificate, open_service
from tests.sessions.visit import fetch, home, over, plan_back

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PORT = 18445

# The lab's image has no gridcloud: it is put there, and waited for.
COMMAND = (
    "until [ -e /gridcloud/there ]; do sleep 0.1; done; "
    'PYTHONPATH=/gridcloud/packages exec python3 -m gridcloud "$@"'
)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an agent imports, in a folder."""
    folder = tmp_path_factory.mktemp("packages")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted, seen = [re.split(r"[<>=!~;\[ ]", one)[0] for one in extras["agent"]], set[str]()
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another kind of machine
        wanted += [re.split(r"[<>=!~;\[( ]", one)[0] for one in found.requires or () if "extra ==" not in one]
        for file in found.files or ():
            source = Path(str(found.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    leave = shutil.ignore_patterns("__pycache__", "spawner", ".mypy_cache")
    shutil.copytree(Path(gridcloud.__file__).parent, folder / "gridcloud", ignore=leave)
    return folder


async def furnish(cluster: Cluster, namespace: str, packages: Path) -> None:
    """Put gridcloud into each pod that comes."""
    done: set[str] = set()
    none = FileCredentials(packages / "none", packages / "none")
    while True:
        pods = await asyncio.to_thread(cluster.ask, "GET", f"/api/v1/namespaces/{namespace}/pods")
        for pod in pods["items"]:
            uid = pod["metadata"]["uid"]
            if pod["status"].get("phase") == "Failed":  # for whoever reads why the test failed
                name = pod["metadata"]["name"]
                with contextlib.suppress(Exception):
                    print(cluster.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}/log"))
            if uid in done or pod["status"].get("phase") != "Running":
                continue
            done.add(uid)
            address = PodAddress(
                kubeconfig=str(cluster.kubeconfig),
                namespace=namespace,
                pod=pod["metadata"]["name"],
                uid=uid,
                directory="/gridcloud",
            )
            connection = await connections.open(address, none)
            try:
                await connection.put(packages, "packages")
                await read_output(connection, "touch", "/gridcloud/there")
            finally:
                await connection.close()
        await asyncio.sleep(0.3)


async def test_a_session_and_a_command_in_a_pod_that_dials(
    tmp_path: Path, kubernetes_cluster: Cluster, packages: Path
) -> None:
    gateway = kubernetes_cluster.lead_out(PORT)
    certificate, key = make_certificate(tmp_path, "hub", gateway)
    namespace = kubernetes_cluster.make_namespace(f"n{secrets.token_hex(4)}")
    door = {
        "host": kubernetes_cluster.outside,
        "port": PORT,
        "certificate": str(certificate),
        "key": str(key),
    }
    agent = {
        "url": f"https://{gateway}:{PORT}",
        "ca": str(certificate),
        "command": ["/bin/sh", "-c", COMMAND, "sh"],
    }
    entry: dict[str, Any] = {
        "driver": "kubernetes",
        "kubeconfig": str(kubernetes_cluster.kubeconfig),
        "namespace": namespace,
        "image": SESSION_IMAGE,
        "pull": "Never",
        "agent": agent,
    }
    async with open_service(tmp_path, {"pods": entry}, service=door) as service:
        house = service.house
        furnishing = asyncio.create_task(furnish(kubernetes_cluster, namespace, packages))
        try:
            asked = Request(cpus=0.25, memory=512 << 20)
            instance = await house.instances.submit("ada", asked)
            async with asyncio.timeout(240):
                instance = await house.instances.wait(instance.id)
            assert isinstance(instance.address, SSHAddress)
            assert instance.address.socket
            assert await read_output(await link(house, instance), "sh", "-c", "id -u; pwd") == (
                f"1000\n{instance.address.directory}\n"
            )
            path = f"/api/v1/namespaces/{namespace}/secrets"
            ours = [one for one in kubernetes_cluster.ask("GET", path)["items"] if one["type"] == "Opaque"]
            assert [one["metadata"]["ownerReferences"][0]["kind"] for one in ours] == ["Pod"]
            await end(house, instance)
            async with home() as back:
                session = await house.sessions.submit("ada", asked, plan_back(back))
                async with asyncio.timeout(240):
                    session = await house.sessions.wait(session.id)
                assert await fetch(session) == b"here"
                assert await fetch(session, "/back") == b"from home"
                await house.sessions.stop(session.id)
                assert (await over(house, session)).state, await story(house, session.id)
            assert await house.providers.get("pods").holdings() == []
            assert await house.reconciliation.examine() == []
            assert await house.agents.all() == []
        finally:
            furnishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await furnishing
