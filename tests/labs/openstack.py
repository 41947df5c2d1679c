"""The real OpenStack on this computer: keystone, glance, placement, neutron, cinder and nova that boots nothing.

Everything but the machines themselves is real: accounts, quotas, flavors, images, networks, floating addresses, and
servers with their faults. What it has is in `openstack_contents`.

    with OpenStack() as lab:
        project = lab.make_project(cores=4)      # a project of its own, with a network and a router to `outside`
        project.cloud, lab.clouds_file           # for whoever reads clouds.yaml

All of it listens on loopback and ends with the test process (see `ownership`).
"""

import secrets
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import openstack
import yaml

from tests.labs import ownership
from tests.labs.openstack_build import missing_for_openstack, prepare_openstack, readdress
from tests.labs.openstack_contents import administrator, take_host
from tests.labs.openstack_processes import APPLICATIONS, WORKERS, Processes
from tests.labs.openstack_settings import REGION, endpoints

__all__ = ["OpenStack", "Project", "missing_for_openstack", "prepare_openstack"]

COMPUTE_QUOTAS = ("cores", "instances", "ram")
NETWORK_QUOTAS = ("floating_ips", "ports", "security_groups")


@dataclass(frozen=True)
class Project:
    """A project with one user. ``cloud`` is its name in the lab's clouds.yaml."""

    cloud: str
    id: str
    user: str
    password: str
    network: str
    """Name of its network, which a router joins to `outside`."""


class OpenStack:
    """One running cloud. A context manager; `open` and `close` do the same by hand."""

    def __init__(self) -> None:
        self.folder = Path()
        self._processes: Processes | None = None
        self._clouds: dict[str, Any] = {}

    @property
    def clouds_file(self) -> Path:
        """A clouds.yaml with each project made so far."""
        return self.folder / "clouds.yaml"

    @property
    def identity_url(self) -> str:
        return endpoints(self._running.ports)["identity"]

    def open(self) -> Self:
        """Start it and return when it makes servers (about a minute on two processors)."""
        kept = prepare_openstack()
        self.folder = ownership.claim("openstack")
        try:
            with tarfile.open(kept.state) as archive:
                archive.extractall(self.folder, filter="tar")
            self._processes = Processes(self.folder, kept.environment, kept.plugins)
            _start(self._processes)
            take_host(self._processes.ports)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End all of it and remove its folder. May be called twice."""
        if self._processes:
            self._processes.close()
            self._processes = None
        if self.folder.name:
            ownership.release(self.folder)

    def administrator(self) -> Any:
        """A connection that may do everything. The caller closes it."""
        return administrator(self._running.ports)

    def connect(self, project: Project) -> Any:
        """A connection of the project's user. The caller closes it."""
        return openstack.connect(load_envvars=False, **self._clouds[project.cloud])

    def make_project(self, *, network: bool = True, **quotas: int) -> Project:
        """Make a project with a user and, unless told otherwise, a network with a router.

        ``quotas`` are `COMPUTE_QUOTAS` (``ram`` in MiB) and `NETWORK_QUOTAS`; OpenStack's own where not given.
        """
        name, password = f"project-{secrets.token_hex(3)}", secrets.token_hex(8)
        with self.administrator() as cloud:
            made = cloud.identity.create_project(name=name, domain_id="default")
            user = cloud.identity.create_user(name=name, password=password, domain_id="default")
            roles = {role.name: role for role in cloud.identity.roles()}
            cloud.identity.assign_project_role_to_user(made.id, user.id, roles["member"].id)
            compute = {key: quotas[key] for key in COMPUTE_QUOTAS if key in quotas}
            if compute:
                cloud.compute.update_quota_set(made.id, **compute)
            more = {key: quotas[key] for key in NETWORK_QUOTAS if key in quotas}
            if more:
                cloud.network.update_quota(made.id, **more)
        project = Project(name, made.id, name, password, f"{name}-network")
        self.describe(project)
        if network:
            with self.connect(project) as cloud:
                _make_network(cloud, project.network)
        return project

    def describe(
        self, project: Project, *, cloud: str = "", password: str = "", region: str = REGION, url: str = ""
    ) -> str:
        """Write the project into the clouds file under a name, with other words where given; the name."""
        name = cloud or project.cloud
        self._clouds[name] = {
            "auth": {
                "auth_url": url or self.identity_url,
                "username": project.user,
                "password": password or project.password,
                "project_name": project.user,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "region_name": region,
            "identity_api_version": "3",
        }
        self.clouds_file.write_text(yaml.safe_dump({"clouds": self._clouds}))
        self.clouds_file.chmod(0o600)
        return name

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _running(self) -> Processes:
        if self._processes is None:
            raise RuntimeError("the OpenStack lab is not open")
        return self._processes


def _start(processes: Processes) -> None:
    """What the others ask first comes first: their time is mostly spent in importing, on few processors."""
    processes.start_messages()
    processes.start_database()
    readdress(processes)
    for name in APPLICATIONS:
        processes.start_application(name)
    processes.wait_for_messages()
    for name in ("identity", "placement"):
        processes.wait_for_application(name)
    for name in WORKERS:
        processes.start_worker(name)
    for name in APPLICATIONS:
        processes.wait_for_application(name)


def _make_network(cloud: Any, name: str) -> None:
    network = cloud.network.create_network(name=name)
    subnet = cloud.network.create_subnet(network_id=network.id, name=name, ip_version=4, cidr="10.20.0.0/24")
    outside = cloud.network.find_network("outside", ignore_missing=False)
    router = cloud.network.create_router(name=name, external_gateway_info={"network_id": outside.id})
    cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


def main() -> None:
    """Run the cloud until interrupted, with one project: to look at it by hand."""
    started = time.monotonic()
    with OpenStack() as lab:
        project = lab.make_project()
        print(
            f"{time.monotonic() - started:.0f} s; clouds file {lab.clouds_file}, cloud {project.cloud}",
            flush=True,
        )
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
