"""The labs do what their users rely on."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncssh
import docker
import pytest

from tests.labs import ownership
from tests.labs.containers import SESSION_IMAGE, TINY_IMAGE, Engine
from tests.labs.fixtures import StartMachine
from tests.labs.kubernetes import SESSION_IMAGE as KUBERNETES_IMAGE
from tests.labs.kubernetes import Cluster
from tests.labs.machines import Lab, Machine

pytestmark = pytest.mark.needs_root


@asynccontextmanager
async def connect(machine: Machine, **options: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with asyncssh.connect(
        machine.host,
        machine.port,
        username=machine.user,
        client_keys=[str(machine.private_key)],
        known_hosts=machine.known_hosts(),
        config=None,
        **options,
    ) as connection:
        yield connection


async def output(machine: Machine, command: str, **options: Any) -> str:
    async with connect(machine, **options) as connection:
        done = await connection.run(command, check=True)
        return str(done.stdout).strip()


async def test_a_machine_takes_the_key_and_proves_its_own(ssh_machine: Machine) -> None:
    assert await output(ssh_machine, "id -un; hostname") == f"root\n{ssh_machine.name}"
    assert await output(ssh_machine, "jupyterhub-singleuser --version") == version("jupyterhub")


async def test_another_host_key_is_noticed(start_machine: StartMachine) -> None:
    first, second = await start_machine(), await start_machine()
    second.host_key = first.host_key
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await output(second, "true")


async def test_without_root_login_the_user_may_use_sudo(start_machine: StartMachine) -> None:
    machine = await start_machine(root_login=False)
    assert await output(machine, "id -un; sudo id -un") == "user\nroot"
    machine.user = "root"
    with pytest.raises(asyncssh.PermissionDenied):
        await output(machine, "true")


async def test_a_cut_is_silent_and_heals_under_a_connection(ssh_machine: Machine) -> None:
    async with connect(ssh_machine) as connection:
        ssh_machine.cut()
        answer = asyncio.ensure_future(connection.run("echo back"))
        done, _ = await asyncio.wait([answer], timeout=0.3)
        assert not done
        assert ssh_machine.is_cut()
        assert ssh_machine.execute("hostname").strip() == ssh_machine.name
        ssh_machine.heal()
        assert (await asyncio.wait_for(answer, 20)).stdout == "back\n"


async def test_five_machines_at_once_reach_one_another(start_machine: StartMachine) -> None:
    machines = await asyncio.gather(*(start_machine() for _ in range(5)))
    names = await asyncio.gather(*(output(machine, "hostname") for machine in machines))
    assert names == [machine.name for machine in machines]
    seen = await output(machines[0], f"nc -w 5 {machines[4].host} 22 </dev/null | head -c 7")
    assert seen == "SSH-2.0"


async def test_a_machine_behind_another_is_reached_through_it_only(start_machine: StartMachine) -> None:
    jump = await start_machine()
    hidden = await start_machine(behind=jump)
    async with connect(jump) as connection:
        assert await output(hidden, "hostname", tunnel=connection) == hidden.name
    with pytest.raises((OSError, TimeoutError)):
        await asyncio.wait_for(asyncio.open_connection(hidden.host, 22), 0.3)


async def test_a_killed_machine_is_gone_without_a_word(ssh_machine: Machine) -> None:
    async with connect(ssh_machine) as connection:
        ssh_machine.kill()
        assert not ssh_machine.alive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.run("true"), 0.3)
        connection.abort()


async def test_limits_of_a_machine_hold(start_machine: StartMachine) -> None:
    machine = await start_machine(memory="200M", disk="20m")
    full = await output(machine, "head -c 40M /dev/zero 2>&1 >/root/big || rm /root/big")
    assert "No space left on device" in full
    killed = await output(machine, "python3 -c 'b = bytes(1) * 400_000_000' >/dev/null 2>&1 || echo killed")
    assert killed == "killed"


async def test_a_lab_leaves_nothing() -> None:
    with Lab() as lab:
        number, folder = lab.number, lab.folder
        machine = await lab.start("alpha", memory="200M")
        pid = machine.process.pid
    assert not traces(folder, number)
    assert not Path(f"/proc/{pid}").exists()


async def test_what_a_killed_test_process_left_is_swept() -> None:
    program = (
        "import asyncio\n"
        "from tests.labs.machines import Lab\n"
        "lab = Lab().open()\n"
        "machine = asyncio.run(lab.start('alpha'))\n"
        "print(lab.folder, machine.process.pid, flush=True)\n"
        "input()\n"
    )
    root = Path(__file__).parents[2]
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout
    folder, pid = (await owner.stdout.readline()).decode().split()
    os.kill(owner.pid, signal.SIGKILL)
    await owner.wait()
    number = int(Path(folder).name.removeprefix("ssh"))
    for _ in range(200):
        ownership.sweep()
        left = traces(Path(folder), number) + ([pid] if Path(f"/proc/{pid}").exists() else [])
        if not left:
            break
        await asyncio.sleep(0.02)
    assert not left


async def test_an_engine_runs_a_session(container_engine: Engine) -> None:
    said = await run_container(
        container_engine, SESSION_IMAGE, "id -un; pwd; jupyterhub-singleuser --version"
    )
    assert said == f"user\n/home/user\n{version('jupyterhub')}"


async def test_the_memory_limit_of_a_container_holds(container_engine: Engine) -> None:
    said = await run_container(
        container_engine,
        TINY_IMAGE,
        "head -c 200M /dev/zero | tail >/dev/null; echo ${PIPESTATUS[1]}",
        mem_limit="64m",
    )
    assert said.split()[-1] == "137"


async def test_an_image_that_does_not_exist_is_refused(container_engine: Engine) -> None:
    with pytest.raises(docker.errors.APIError):
        await run_container(container_engine, "gridcloud-absent:test", "true")


async def test_an_engine_leaves_nothing(container_engine: Engine) -> None:
    with Engine(container_engine.name) as engine:
        folder = engine.folder
        with closing(docker.DockerClient(base_url=engine.url)) as client:
            client.containers.run(TINY_IMAGE, ["sleep", "12345"], detach=True)
    assert not traces(folder, 0)
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in ownership.read(path)]


async def run_container(engine: Engine, image: str, script: str, **options: Any) -> str:
    def run() -> str:
        with closing(docker.DockerClient(base_url=engine.url)) as client:
            said: bytes = client.containers.run(image, ["bash", "-c", script], remove=True, **options)
            return said.decode().strip()

    return await asyncio.to_thread(run)


def traces(folder: Path, number: int) -> list[str]:
    """What is there of a lab in the system."""
    # Not by glob: others' groups go while it looks.
    found = [
        place for place, _, _ in os.walk(ownership.CGROUPS) if place.endswith(f"/gridcloud-lab-{folder.name}")
    ]
    found += [str(folder)] if folder.exists() else []
    return found + ([f"gclab{number}"] if Path(f"/sys/class/net/gclab{number}").exists() else [])


@pytest.mark.lab
def test_a_cluster_runs_a_pod_and_leaves_nothing(kubernetes_cluster: Cluster) -> None:
    pods = f"/api/v1/namespaces/{kubernetes_cluster.make_namespace('lab-test')}/pods"
    container = {
        "name": "c",
        "image": KUBERNETES_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "600"],
    }
    pod = {"metadata": {"name": "one"}, "spec": {"containers": [container]}}
    with Cluster() as other:
        other.make_namespace("lab-test")
        other.ask("POST", pods, pod)
        kubernetes_cluster.ask("POST", pods, pod)
        for cluster in (other, kubernetes_cluster):
            while cluster.ask("GET", f"{pods}/one")["status"]["phase"] != "Running":
                time.sleep(0.1)
        folder = other.folder
    assert not traces(folder, 0)
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not Path(f"/sys/class/net/gckube{folder.name.removeprefix('kubernetes')}").exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in ownership.read(path)]
    kubernetes_cluster.ask("DELETE", f"{pods}/one?gracePeriodSeconds=0")
