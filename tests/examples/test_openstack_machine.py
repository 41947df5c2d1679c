"""A session with a kernel on a machine of OpenStack, by the configuration that the guide gives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.labs.openstack import OpenStack
from tests.labs.openstack_machines import OpenStackMachines
from tests.labs.virtual_machines import missing_for_virtual_machines
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.lab,
    pytest.mark.timeout(2400),
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

PATIENCE = 1500
"""Seconds that an emulated machine may take until its session answers: it is many times slower than a real one."""


async def test_session_with_a_kernel(openstack_cloud: OpenStack, tmp_path: Path) -> None:
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    project = openstack_cloud.make_project(cores=4, ram=8192, instances=2, floating_ips=2)
    provider = {
        "driver": "openstack",
        "cloud": project.cloud,
        "clouds_file": str(openstack_cloud.clouds_file),
        "image": "debian-12-*",
        "allow_from": ["203.0.113.0/24"],
        "prices": {"*": 0},
    }
    times = {"session": {"start": PATIENCE}, "limits": {"start": PATIENCE, "configure": PATIENCE}}
    folder = tmp_path / "campus"
    folder.mkdir()
    house = UpHouse(folder, {"campus": provider}, **times)
    with OpenStackMachines(openstack_cloud, tmp_path / "machines") as machines:
        house.start()
        try:
            async with house.api() as client:
                path = await house.spawn(client, "ada", {"cpus": 2, "memory": "2GiB"}, patience=PATIENCE)
                assert len(machines.running) == 1
                async with open_kernel(client, path) as kernel:
                    said = await kernel.run("import socket; print(socket.gethostname(), 6 * 7)", patience=300)
                await house.stop_server(client, "ada")
            [(hostname, answer)] = [said.split()]
            assert answer == "42"
            assert hostname.startswith("gridcloud-"), hostname
            with openstack_cloud.connect(project) as cloud:
                for _ in range(120):
                    if not (left := [*cloud.compute.servers(), *cloud.network.ips()]):
                        break
                    await asyncio.sleep(1)
            assert not left
        finally:
            print(machines.consoles(), house.logs())
            house.stop()
    assert not machines.running
