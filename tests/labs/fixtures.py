"""The fixtures of the labs, a pytest plugin. What cannot run here is skipped, and said aloud at the end of the run.

`ssh_lab` (once per test process) is an open `machines.Lab`; `start_machine` starts machines in it that end with the
test; `ssh_machine` is one such machine. `podman_engine` and `docker_engine` (once per test process) are open
`containers.Engine`s; `container_engine` is each of them in turn. `kubernetes_cluster` (once per test process) is an
open `kubernetes.Cluster`, where its programs were built; `openstack_cloud` likewise an open `openstack.OpenStack`.
`slurm` (once per test process) is an open `slurm.Slurm`; `quiet_slurm` sees that a test leaves no job in it.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

from tests.labs.containers import Engine, missing_for_engine
from tests.labs.kubernetes import Cluster, built_for_kubernetes, missing_for_kubernetes
from tests.labs.machines import Lab, Machine, missing_for_machines
from tests.labs.slurm import Slurm, missing_for_slurm

if TYPE_CHECKING:
    from tests.labs.openstack import OpenStack

__all__ = [
    "StartMachine",
    "container_engine",
    "docker_engine",
    "kubernetes_cluster",
    "openstack_cloud",
    "podman_engine",
    "quiet_slurm",
    "slurm",
    "ssh_lab",
    "ssh_machine",
    "start_machine",
]


_MARK = "NOT TESTED: "


class StartMachine(Protocol):
    """`Lab.start` with a name made up where none is given."""

    def __call__(self, name: str = "", **options: Any) -> Awaitable[Machine]: ...


@pytest.fixture(scope="session")
def ssh_lab() -> Iterator[Lab]:
    """A private network in which machines can be started."""
    _skip_without(missing_for_machines())
    with Lab() as lab:
        yield lab


@pytest.fixture
def start_machine(ssh_lab: Lab) -> Iterator[StartMachine]:
    """Start a machine (the options are those of `Lab.start`) that ends with the test."""
    started: list[Machine] = []

    async def start(name: str = "", **options: Any) -> Machine:
        machine = await ssh_lab.start(name or ssh_lab.unused_name(), **options)
        started.append(machine)
        return machine

    yield start
    for machine in started:
        ssh_lab.stop(machine)


@pytest.fixture
async def ssh_machine(start_machine: StartMachine) -> Machine:
    """One machine with root login, which ends with the test."""
    return await start_machine()


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[Engine]:
    """Podman, with the images of `tests.labs.containers`."""
    with _engine("podman") as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """Docker, with the images of `tests.labs.containers`."""
    with _engine("docker") as engine:
        yield engine


@pytest.fixture(scope="session", params=["podman", "docker"])
def container_engine(request: pytest.FixtureRequest) -> Engine:
    """Podman and Docker in turn."""
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Iterator[Cluster]:
    """A cluster of one real node."""
    _skip_without(missing_for_kubernetes())
    if not built_for_kubernetes():
        pytest.skip(
            f"{_MARK}pods on a real kubelet, until Kubernetes is built: python -m tests.labs kubernetes"
        )
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A Slurm with two nodes and nothing in its queue."""
    _skip_without(missing_for_slurm())
    with Slurm() as cluster:
        yield cluster


@pytest.fixture
def quiet_slurm(slurm: Slurm) -> Iterator[Slurm]:
    """A Slurm with free nodes, in whose queue the test leaves nothing."""
    slurm.wait_idle()
    yield slurm
    left = slurm.run("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i %j %T")
    slurm.run("scancel", "--user=root")
    assert not left, left


@pytest.fixture(scope="session")
def openstack_cloud() -> "Iterator[OpenStack]":
    """A cloud with nothing in it but flavors, images and a host; starting it takes about a minute."""
    # Here, because importing the SDK would slow every run of the tests.
    from tests.labs.openstack import OpenStack, missing_for_openstack

    _skip_without(missing_for_openstack())
    with OpenStack() as cloud:
        yield cloud


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)}
    for reason in sorted(reason for reason in reasons if _MARK in reason):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), yellow=True, bold=True)


@contextmanager
def _engine(name: Literal["podman", "docker"]) -> Iterator[Engine]:
    _skip_without(missing_for_engine(name))
    with Engine(name) as engine:
        yield engine


def _skip_without(reason: str | None) -> None:
    if reason:
        pytest.skip(_MARK + reason)
