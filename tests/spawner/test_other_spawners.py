"""Spawners of others, with what they speak to: Docker's API of Podman, Slurm, a cluster of Kubernetes.

Each life is the same: the form, what it forbids through the REST API, steps, a kernel, a hub that is killed, the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gridcloud.spawner.proxy_program import install_proxy
from tests.labs.containers import SESSION_IMAGE, TINY_IMAGE, Engine
from tests.labs.kubernetes import POD_NETWORK, Cluster
from tests.labs.slurm import Slurm
from tests.spawner.kernel import open_kernel
from tests.spawner.test_deaths import back
from tests.spawner.uphouse import NAVIGATE, UpHouse

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(400)]

HUB = "gridcloud.spawner.hub"

PUBLIC = {"port": 0, "bind": "0.0.0.0", "named_servers": 3}  # noqa: S104 - containers and pods come in by it


def spawner_house(
    make_house: Callable[..., UpHouse], kind: str, kwargs: dict[str, Any], **hub: Any
) -> UpHouse:
    """A house whose one profile another spawner starts."""
    module = kind.partition(".")[0]
    pytest.importorskip(
        module, reason=f"NOT TESTED: {kind}, until it is installed: pip install gridcloud[spawners]"
    )
    profile = {
        "spawner": {"class": kind, "kwargs": kwargs},
        "environment": {"COURSE": "for {JUPYTERHUB_USER}"},
    }
    house = make_house(profiles={"theirs": profile})
    house.settings["hub"] |= hub
    house.write()
    return house


def public_port(house: UpHouse) -> int:
    """Choose the port that people and containers come in by, before anything is told of it."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # noqa: S104
        port = int(probe.getsockname()[1])
    house.settings["hub"]["port"] = port
    house.write()
    return port


async def live(house: UpHouse, user: str, fields: dict[str, Any], *, shown: str, step: str) -> str:
    """Begin a session as a user does, kill the hub under it, and return its path when it was found again."""
    async with house.api() as client:
        async with house.browser() as browser, browser.get("/hub/spawn", headers=NAVIGATE) as answer:
            assert shown in await answer.text()
        await house.user(client, user)
        options = {"profile": "theirs", "fields": fields}
        starting = asyncio.create_task(_post(client, f"/hub/api/users/{user}/server", options))
        for _ in range(600):
            if starting.done() or await house.server(client, user):
                break
            await asyncio.sleep(0.05)
        # Beside the start, which may be answered only when it is over: then there are no steps to see.
        async with client.get(f"/hub/api/users/{user}/server/progress") as answer:
            told = [json.loads(line[5:]) async for line in answer.content if line.startswith(b"data:")]
        status, text = await starting
        assert status in (201, 202), text + house.logs()
        assert told[-1].get("ready"), f"{told}{house.logs()}"
        assert step in json.dumps(told), told
        path = str(told[-1]["url"])
        async with open_kernel(client, path) as kernel:
            assert await kernel.run("import os; x = 41; print(os.environ['COURSE'])") == f"for {user}\n"
            hub = house.child(HUB)
            hub.kill()
            await back(house, HUB, hub.pid)
            assert (await house.server(client, user)).get("ready"), house.logs()
            assert await kernel.run("print(x)") == "41\n"
        async with client.get(f"{path}api/status") as answer:
            assert answer.status == 200, await answer.text()
    return path


async def _post(client: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with client.post(path, json=body) as answer:
        return answer.status, await answer.text()


async def refused(house: UpHouse, user: str, options: dict[str, Any], words: str) -> None:
    """See that a user's options are refused."""
    async with house.api() as client:
        await house.user(client, user)
        async with client.post(
            f"/hub/api/users/{user}/server", json={"profile": "theirs", **options}
        ) as answer:
            text = await answer.text()
            assert 400 <= answer.status < 504, text
            assert words in text, text
        assert not await house.server(client, user)


async def until(condition: Callable[[], bool], seconds: float = 40) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        await asyncio.sleep(0.2)


# Docker ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reached_engine(podman_engine: Engine) -> Iterator[tuple[Engine, str, str]]:
    """Podman, its address for this computer, and this computer's for its containers."""
    card, ours, theirs = "gcwrap0", "10.215.77.1", "10.215.77.2"
    assert podman_engine._process is not None
    pid = str(podman_engine._process.pid)

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", pid)
    try:
        ip("address", "add", f"{ours}/30", "dev", card)
        ip("link", "set", card, "up")
        for words in (f"address add {theirs}/30 dev eth0", "link set eth0 up"):
            subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *words.split()], check=True)
        yield podman_engine, theirs, ours
    finally:
        subprocess.run(["ip", "link", "delete", card], check=False)


NEAR = """
from dockerspawner import DockerSpawner

class Near(DockerSpawner):
    async def get_ip_and_port(self):
        return self.host_ip, self.port  # as its documentation says for the engine's own network
"""


@pytest.fixture(scope="module")
def docker_house(
    make_house: Callable[..., UpHouse],
    reached_engine: tuple[Engine, str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[UpHouse]:
    """A hub whose profile is DockerSpawner's, at Podman, with two images to choose from."""
    engine, there, here = reached_engine
    pytest.importorskip("dockerspawner", reason="NOT TESTED: DockerSpawner: pip install gridcloud[spawners]")
    modules = tmp_path_factory.mktemp("modules")
    (modules / "near.py").write_text(NEAR)
    house = spawner_house(
        make_house,
        "dockerspawner.DockerSpawner",
        {
            "image": SESSION_IMAGE,
            "allowed_images": [SESSION_IMAGE, TINY_IMAGE],
            "remove": True,
            "pull_policy": "never",
            "host_ip": there,
            "cmd": ["jupyterhub-singleuser"],
            "notebook_dir": "/home/user",
            "client_kwargs": {"base_url": engine.url},
        },
        **PUBLIC,
    )
    port = public_port(house)
    kwargs = house.settings["profiles"]["theirs"]["spawner"]
    kwargs["class"] = "near.Near"
    kwargs["kwargs"] |= {"hub_connect_url": f"http://{here}:{port}", "port": 18888}
    kwargs["kwargs"] |= {"network_name": "host", "use_internal_ip": True}
    more = Path(house.settings["hub"]["configuration"])
    more.write_text(
        more.read_text() + "\nc.DockerSpawner.mem_limit = '600M'\nc.DockerSpawner.prefix = 'wrapped'\n"
    )
    house.before = ("env", f"PYTHONPATH={modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    house.write()
    house.start()
    yield house
    house.stop()


def containers(engine: Engine) -> list[dict[str, Any]]:
    """What DockerSpawner has at the engine."""
    import docker

    client = docker.APIClient(base_url=engine.url, timeout=30)
    try:
        return [
            client.inspect_container(one) for one in client.containers(all=True, filters={"name": "wrapped"})
        ]
    finally:
        client.close()


@pytest.mark.keeps("the house's new process")
async def test_a_container_of_dockerspawner_outlives_its_hub(
    docker_house: UpHouse, reached_engine: tuple[Engine, str, str]
) -> None:
    engine = reached_engine[0]
    await live(docker_house, "dora", {"image": [SESSION_IMAGE]}, shown=TINY_IMAGE, step="ready")
    (made,) = containers(engine)
    assert made["Config"]["Image"].endswith(SESSION_IMAGE)
    assert made["HostConfig"]["Memory"] == 600 << 20, "c.DockerSpawner counts"
    async with docker_house.api() as client:
        await docker_house.stop_server(client, "dora")
    assert containers(engine) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fields": {"image": ["other:1"]}}, "not in allowed list"),
        ({"image": "other:1"}, "takes no options image"),
        ({"fields": {"image": ["__import__('os').abort()"]}}, "not in allowed list"),
        (
            {"container_spec": {"user": "root", "mounts": [{"source": "/"}]}},
            "takes no options container_spec",
        ),
        ({"fields": "image"}, "takes no options"),
    ],
)
async def test_dockerspawner_gets_what_its_form_gives(
    docker_house: UpHouse, reached_engine: tuple[Engine, str, str], options: dict[str, Any], words: str
) -> None:
    await refused(docker_house, "eve", options, words)
    assert containers(reached_engine[0]) == []


# Slurm -------------------------------------------------------------------------------------------------------------

PARTITIONS = (
    '<select name="partition"><option>work</option><option value="short">Ten minutes</option></select>'
)

BLOCKING = ("--parsable", "--nodes=2", "--exclusive", "--chdir=/", "--output=/dev/null", "--wrap=sleep 300")

JOB = """#!/bin/bash
#SBATCH --output=/dev/null
#SBATCH --job-name=wrapped
#SBATCH --export={{keepvars}}
#SBATCH --partition={{partition}}
#SBATCH --mem=600M
{{cmd}}
"""


@pytest.fixture(scope="module")
def slurm_house(make_house: Callable[..., UpHouse], slurm: Slurm) -> Iterator[UpHouse]:
    """A hub whose profile is batchspawner's for Slurm, with two partitions to choose from."""
    programs = Path(sys.executable).parent
    house = spawner_house(
        make_house,
        "batchspawner.MultiSlurmSpawner",
        {
            "options_form": PARTITIONS,
            "options_from_form": "simple",
            "batch_script": JOB,
            "batchspawner_singleuser_cmd": str(programs / "batchspawner-singleuser"),
            "cmd": [str(programs / "jupyterhub-singleuser")],
            "args": ["--allow-root"],
            "daemon_resolver": {"n1": "127.0.0.1", "n2": "127.0.0.1"},
            "env_keep": ["PATH", "LANG", *slurm.environment],
        },
    )
    house.before = ("env", *(f"{name}={value}" for name, value in slurm.environment.items()))
    house.start()
    yield house
    house.stop()


@pytest.fixture
async def slurm_admin(slurm_house: UpHouse) -> AsyncIterator[Any]:
    async with slurm_house.api() as client:
        yield client


def jobs(slurm: Slurm) -> list[str]:
    """The jobs that wait or run: name, partition, state."""
    words = ("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j %P %T")
    return slurm.run(*words).splitlines()


@pytest.mark.keeps("the house's new process")
async def test_a_job_of_batchspawner_outlives_its_hub(
    slurm_house: UpHouse, quiet_slurm: Slurm, slurm_admin: Any
) -> None:
    await live(slurm_house, "root", {"partition": ["short"]}, shown="Ten minutes", step="job running")
    assert jobs(quiet_slurm) == ["wrapped short RUNNING"]
    await slurm_house.stop_server(slurm_admin, "root")
    assert jobs(quiet_slurm) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"partition": ["staff"]}, "'partition' cannot be 'staff'"),
        ({"partition": ["work"], "prologue": ["id"]}, "The form has no field 'prologue'"),
        ({"partition": ["work", "short"]}, "'partition' was given 2 times"),
    ],
)
async def test_batchspawner_gets_what_its_form_gives(
    slurm_house: UpHouse, quiet_slurm: Slurm, fields: dict[str, Any], words: str
) -> None:
    await refused(slurm_house, "root", {"fields": fields}, words)
    assert jobs(quiet_slurm) == []


@pytest.mark.keeps("the house's new process")
@pytest.mark.parametrize("dies", [False, True])
async def test_a_job_that_waits_is_cancelled_with_its_start(
    slurm_house: UpHouse, quiet_slurm: Slurm, slurm_admin: Any, dies: bool
) -> None:
    """Whether its user gives up, or its hub dies before it ran."""
    await slurm_house.user(slurm_admin, "root")
    blocker = quiet_slurm.run("sbatch", *BLOCKING).strip()
    await until(lambda: any("RUNNING" in job for job in jobs(quiet_slurm)))
    try:
        options = {"profile": "theirs", "fields": {"partition": ["work"]}}
        async with slurm_admin.post("/hub/api/users/root/server", json=options) as answer:
            # 201 after a start that failed: JupyterHub looks at the spawner that it has replaced then.
            assert answer.status in (201, 202), await answer.text()
        assert (await slurm_house.server(slurm_admin, "root"))["pending"] == "spawn"
        await until(lambda: "wrapped work PENDING" in jobs(quiet_slurm))
        if dies:
            hub = slurm_house.child(HUB)
            hub.kill()
            await back(slurm_house, HUB, hub.pid)
        else:
            await slurm_house.stop_server(slurm_admin, "root")
        await until(lambda: "wrapped work PENDING" not in jobs(quiet_slurm))
        assert not (await slurm_house.server(slurm_admin, "root")).get("ready")
    finally:
        quiet_slurm.run("scancel", blocker)
        quiet_slurm.wait_idle()


@pytest.mark.keeps("the house's new process")
async def test_jobs_end_with_the_hub(slurm_house: UpHouse, quiet_slurm: Slurm, slurm_admin: Any) -> None:
    await slurm_house.spawn(slurm_admin, "root", {"profile": "theirs", "fields": {"partition": ["work"]}})
    assert slurm_house.stop() == 0, slurm_house.said()
    assert "1 session of other spawners stopped." in slurm_house.said()
    assert jobs(quiet_slurm) == []
    slurm_house.start()


# Kubernetes --------------------------------------------------------------------------------------------------------

SHAPES = [
    {"display_name": "Small pod", "slug": "small", "default": True},
    {
        "display_name": "Large pod",
        "slug": "large",
        "profile_options": {
            "memory": {
                "display_name": "Memory",
                "choices": {"500": {"display_name": "500 MB", "kubespawner_override": {"mem_limit": "500M"}}},
            }
        },
    },
]


@pytest.fixture(scope="module")
def kube_house(
    make_house: Callable[..., UpHouse], kubernetes_cluster: Cluster
) -> Iterator[tuple[UpHouse, str]]:
    """A hub whose profile is KubeSpawner's, with two shapes to choose from, and the namespace of its pods."""
    namespace = kubernetes_cluster.make_namespace("wrapped")
    house = spawner_house(
        make_house,
        "kubespawner.KubeSpawner",
        {
            "namespace": namespace,
            "image": SESSION_IMAGE,
            "image_pull_policy": "Never",
            "cmd": ["jupyterhub-singleuser"],
            "profile_list": SHAPES,
            "delete_grace_period": 1,
            "pod_name_template": "wrapped-{username}",
            "storage_pvc_ensure": True,
            "storage_capacity": "1Mi",
            "pvc_name_template": "volume-{username}",
        },
        **PUBLIC,
    )
    assert kubernetes_cluster._process is not None
    house.network = kubernetes_cluster.address
    port = public_port(house)
    kwargs = house.settings["profiles"]["theirs"]["spawner"]["kwargs"]
    kwargs["hub_connect_url"] = f"http://{POD_NETWORK.replace('.0/24', '.1')}:{port}"  # all that pods reach
    inside = f"--net=/proc/{kubernetes_cluster._process.pid}/ns/net"
    asyncio.run(install_proxy())  # from there it cannot be fetched
    # Where pods and the hub reach each other, as they do where the hub is a pod itself.
    house.before = ("nsenter", inside, "env", f"KUBECONFIG={kubernetes_cluster.kubeconfig}")
    house.write()
    house.start()
    yield house, namespace
    house.stop()


def of_namespace(cluster: Cluster, namespace: str, kind: str) -> list[dict[str, Any]]:
    """The things of a kind that a namespace has."""
    found: list[dict[str, Any]] = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/{kind}")["items"]
    return found


@pytest.mark.keeps("the house's new process")
async def test_a_pod_of_kubespawner_outlives_its_hub(
    kube_house: tuple[UpHouse, str], kubernetes_cluster: Cluster
) -> None:
    house, namespace = kube_house
    fields = {"profile": ["large"], "profile-option-large--memory": ["500"]}
    await live(house, "kim", fields, shown="profile-option-large--memory", step="Started container")
    (pod,) = of_namespace(kubernetes_cluster, namespace, "pods")
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "524288k"}, "500 MiB"
    async with house.api() as client:
        await house.stop_server(client, "kim")
        assert of_namespace(kubernetes_cluster, namespace, "pods") == []
        (volume,) = of_namespace(kubernetes_cluster, namespace, "persistentvolumeclaims")
        assert volume["metadata"]["name"] == "volume-kim"
        async with client.delete("/hub/api/users/kim") as answer:
            assert answer.status == 204, await answer.text()
    await until(lambda: not of_namespace(kubernetes_cluster, namespace, "persistentvolumeclaims"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"profile": ["huge"]}, "huge"),
        ({"profile": ["large"], "profile-option-large--memory": ["9999"]}, "9999"),
    ],
)
async def test_kubespawner_gets_what_its_form_gives(
    kube_house: tuple[UpHouse, str], kubernetes_cluster: Cluster, fields: dict[str, Any], words: str
) -> None:
    house, namespace = kube_house
    await refused(house, "eve", {"fields": fields}, words)
    assert of_namespace(kubernetes_cluster, namespace, "pods") == []
