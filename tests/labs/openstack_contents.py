"""What the cloud of the OpenStack lab has: flavors, images, networks, and one host for everybody."""

import time
from collections.abc import Mapping
from typing import Any

import openstack

from tests.labs.openstack_processes import WORKERS
from tests.labs.openstack_settings import HOST, PASSWORD, REGION, endpoints

__all__ = ["FLAVORS", "IMAGES", "ZONE", "administrator", "fill", "make_catalogue", "take_host"]

ZONE = "zone-a"
GIBIBYTE = 1024
FLAVORS: dict[str, dict[str, Any]] = {
    "m1.tiny": {"vcpus": 1, "ram": GIBIBYTE, "disk": 10},
    "m1.small": {"vcpus": 2, "ram": 4 * GIBIBYTE, "disk": 20},
    "m1.large": {"vcpus": 4, "ram": 8 * GIBIBYTE, "disk": 80},
    "m1.diskless": {"vcpus": 1, "ram": 2 * GIBIBYTE, "disk": 0},
    "g1.h100": {"vcpus": 8, "ram": 64 * GIBIBYTE, "disk": 200},
    "g1.h100x2": {"vcpus": 16, "ram": 128 * GIBIBYTE, "disk": 400},
    "v1.a10": {"vcpus": 2, "ram": 8 * GIBIBYTE, "disk": 40},
    "m1.monster": {"vcpus": 2048, "ram": 2048 * GIBIBYTE, "disk": 100},
}
"""Memory in MiB, disk in GiB. No host has what `v1.a10` or `m1.monster` needs."""
EXTRA = {
    "g1.h100": {"resources:CUSTOM_GPU_NVIDIA_H100": "1", "trait:CUSTOM_NVIDIA_H100": "required"},
    "g1.h100x2": {"resources:CUSTOM_GPU_NVIDIA_H100": "2", "trait:CUSTOM_NVIDIA_H100": "required"},
    "v1.a10": {"resources:VGPU": "1", "trait:CUSTOM_NVIDIA_A10": "required"},
}
IMAGES = ("debian-12-2026-01", "debian-12-2026-03", "ubuntu-24.04")


def administrator(ports: Mapping[str, int]) -> Any:
    """A connection of the SDK that may do everything. The caller closes it."""
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth={
            "auth_url": endpoints(ports)["identity"],
            "username": "admin",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        region_name=REGION,
        identity_api_version="3",
    )


def fill(ports: Mapping[str, int]) -> None:
    """Make flavors, images and the network `outside`."""
    with administrator(ports) as cloud:
        for name, sizes in FLAVORS.items():
            flavor = cloud.compute.create_flavor(name=name, **sizes)
            if name in EXTRA:
                cloud.compute.create_flavor_extra_specs(flavor, EXTRA[name])
        for name in IMAGES:
            cloud.create_image(
                name,
                data=name.encode(),
                disk_format="raw",
                container_format="bare",
                visibility="public",
                wait=True,
            )
        outside = cloud.network.create_network(name="outside", is_router_external=True)
        cloud.network.create_subnet(
            network_id=outside.id, name="outside", ip_version=4, cidr="203.0.113.0/24", is_dhcp_enabled=False
        )


def make_catalogue(ports: Mapping[str, int]) -> None:
    """Make the account of the services and the catalogue: all that they need to begin."""
    with administrator(ports) as cloud:
        project = cloud.identity.create_project(name="service", domain_id="default")
        user = cloud.identity.create_user(
            name="service", password=PASSWORD, domain_id="default", default_project_id=project.id
        )
        for role in cloud.identity.roles():
            if role.name in {"admin", "service"}:
                cloud.identity.assign_project_role_to_user(project.id, user.id, role.id)
        for kind, url in endpoints(ports).items():
            if kind == "identity":
                continue
            service = cloud.identity.create_service(name=kind, type=kind)
            for interface in ("public", "internal", "admin"):
                cloud.identity.create_endpoint(
                    service_id=service.id, interface=interface, url=url, region_id=REGION
                )


def take_host(ports: Mapping[str, int], seconds: float = 180) -> None:
    """Put the one host, once it is up, into the zone. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    with administrator(ports) as cloud:
        while True:
            services = [*cloud.compute.services(), *cloud.block_storage.services()]
            up = {service.binary for service in services if service.state == "up"}
            if up >= set(WORKERS) and any(cloud.compute.hypervisors()):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"the host of the OpenStack lab does not come up: {services}")
            time.sleep(0.3)
        aggregate = cloud.compute.create_aggregate(name=ZONE, availability_zone=ZONE)
        cloud.compute.add_host_to_aggregate(aggregate, HOST)
