"""OpenStack's words in ours: what a flavor has, what a quota leaves, what an error means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openstack.exceptions
import pytest
import requests
from keystoneauth1 import exceptions as keystone
from pydantic import ValidationError

from gridcloud.drivers.instances.openstack_settings import OpenStackGPU, OpenStackSettings
from gridcloud.drivers.instances.openstack_words import (
    Flavor,
    Quota,
    explain_shortage,
    gpus_of,
    shape_of,
    translate,
)
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Transient,
    Unreachable,
    Untrusted,
)

pytestmark = [
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

GIB = 1024**3


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, (0, "", 0)),
        ({"hw:cpu_policy": "dedicated"}, (0, "", 0)),
        ({"resources:VGPU": "1"}, (1, "", 0)),
        ({"resources:VGPU": "1", "trait:CUSTOM_NVIDIA_A10": "required"}, (1, "NVIDIA A10", 0)),
        ({"resources1:VGPU": "2", "trait1:CUSTOM_NVIDIA_A40": "required"}, (2, "NVIDIA A40", 0)),
        ({"resources:PGPU": "4", "trait:CUSTOM_GPU_H200": "required"}, (4, "H200", 0)),
        (
            {"resources:CUSTOM_GPU_NVIDIA_H100": "2", "trait:CUSTOM_NVIDIA_H100": "required"},
            (2, "NVIDIA H100", 0),
        ),
        ({"resources:CUSTOM_MI300X": "8"}, (8, "MI300X", 0)),
        ({"resources:CUSTOM_PGPU_L40S_48GB": "1"}, (1, "L40S", 48 * GIB)),
        ({"pci_passthrough:alias": "a100-80g:4"}, (4, "A100", 80 * GIB)),
        ({"pci_passthrough:alias": "h100_80gb"}, (1, "H100", 80 * GIB)),
        ({"pci_passthrough:alias": "v100:2,nic:1"}, (2, "V100", 0)),
        ({"pci_passthrough:alias": "gpu:2"}, (2, "", 0)),
        # What is no GPU, or is only forbidden or preferred.
        ({"pci_passthrough:alias": "nvme:2,qat:1"}, (0, "", 0)),
        ({"resources:CUSTOM_BAREMETAL_GOLD": "1"}, (0, "", 0)),
        ({"resources:VGPU": "1", "trait:CUSTOM_NVIDIA_A10": "forbidden"}, (1, "", 0)),
        ({"trait:CUSTOM_NVIDIA_A10": "required"}, (0, "", 0)),
        ({"resources:VGPU": "many"}, (0, "", 0)),
    ],
)
def test_flavors_tell_their_gpus(extra: dict[str, str], expected: tuple[int, str, int]) -> None:
    assert gpus_of("g1.large", extra, {}) == expected


def test_the_configuration_goes_before_what_flavors_say() -> None:
    configured = {
        "g2.*": OpenStackGPU(model="NVIDIA A100", count=2, memory=40 * GIB),
        "old.*": OpenStackGPU(count=0),
    }
    assert gpus_of("g2.xlarge", {}, configured) == (2, "NVIDIA A100", 40 * GIB)
    assert gpus_of("g2.xlarge", {"resources:VGPU": "1"}, configured) == (2, "NVIDIA A100", 40 * GIB)
    assert gpus_of("old.k80", {"pci_passthrough:alias": "k80:1"}, configured) == (0, "", 0)
    assert gpus_of("other", {"pci_passthrough:alias": "k80:1"}, configured) == (1, "K80", 0)


def test_a_flavor_is_a_shape_with_its_own_disk_or_a_volume() -> None:
    flavor = Flavor("7", "m1.large", 4, 8192, 80, {"resources:VGPU": "1"})
    shape = shape_of(flavor, {})
    assert (shape.name, shape.cpus, shape.memory, shape.disk, shape.gpus) == (
        "m1.large",
        4,
        8 * GIB,
        80 * GIB,
        1,
    )
    assert shape_of(flavor, {}, 200).disk == 200 * GIB


CPUS = Quota("CPUs", 20, 18)
MEMORY = Quota("memory", 51200, 51200, 1024**2)
ENDLESS = Quota("instances", -1, 400)


def test_quotas_are_told_with_figures() -> None:
    assert explain_shortage([CPUS, MEMORY, ENDLESS], {"CPUs": 2, "instances": 1}) == ""
    assert (
        explain_shortage([CPUS, MEMORY, ENDLESS], {"CPUs": 4, "memory": 1024, "instances": 1})
        == "the project's quota: 2 of 20 CPUs left, 4 needed; 0B of 50GiB memory left, 1GiB needed"
    )


def test_a_quota_that_will_never_do_is_told_as_such() -> None:
    assert explain_shortage([CPUS, ENDLESS], {"CPUs": 20, "instances": 500}, ever=True) == ""
    assert (
        explain_shortage([CPUS], {"CPUs": 21}, ever=True) == "the project's quota: 20 CPUs at most, 21 needed"
    )
    # A quota lowered below what is used, and one of nothing.
    assert Quota("CPUs", 4, 9).left == 0
    assert "0 of 0 floating addresses left" in explain_shortage(
        [Quota("floating addresses", 0, 0)], {"floating addresses": 1}
    )


def answer(status: int, message: str) -> Exception:
    """What the SDK raises for an answer of a service."""
    response = requests.Response()
    response.status_code = status
    response.headers["content-type"] = "application/json"
    response._content = openstack_error(message)
    try:
        openstack.exceptions.raise_from_response(response)
    except openstack.exceptions.HttpException as error:
        return error
    raise AssertionError("an error is raised")


def openstack_error(message: str) -> bytes:
    return json.dumps({"computeFault": {"message": message, "code": 0}}).encode()


NOVA_QUOTA = (
    "Quota exceeded for cores, ram: Requested 4, 8192, but already used 4, 8192 of 4, 8192 cores, ram"
)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "The request you have made requires authentication.", InvalidSettings),
        (403, NOVA_QUOTA, QuotaExceeded),
        (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", Forbidden),
        (404, "Network 7 could not be found.", NotFound),
        (409, "Quota exceeded for resources: ['floatingip'].", QuotaExceeded),
        (409, "No more IP addresses available on network 7.", NoCapacity),
        (409, "Security Group 7 in use.", Conflict),
        (413, "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded.", QuotaExceeded),
        (400, "Flavor's disk is too small for requested image.", InvalidRequest),
        (429, "Too Many Requests", Throttled),
        (500, "Unexpected API Error.", Transient),
        (503, "Service Unavailable", Transient),
        (504, "Gateway Timeout", Transient),
    ],
)  # fmt: skip
def test_answers_are_told_apart(status: int, message: str, kind: type[GridcloudError]) -> None:
    ours = translate(answer(status, message), "The cloud 'campus'")
    assert type(ours) is kind
    assert "The cloud 'campus'" in str(ours)
    assert message.rstrip(".") in str(ours)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (keystone.Unauthorized("no"), InvalidSettings),
        (keystone.EndpointNotFound("none"), InvalidSettings),
        (keystone.EmptyCatalog("none"), InvalidSettings),
        (keystone.SSLError("self-signed certificate"), Untrusted),
        (keystone.ConnectFailure("refused"), Unreachable),
        (keystone.ConnectTimeout("slow"), TimedOut),
        (keystone.ServiceUnavailable("down"), Transient),
        (openstack.exceptions.ConfigException("Cloud campus was not found."), InvalidSettings),
        (openstack.exceptions.SDKException("odd"), Transient),
    ],
)
def test_what_the_sdk_raises_is_told_apart(error: Exception, kind: type[GridcloudError]) -> None:
    ours = translate(error, "The cloud 'campus'")
    assert type(ours) is kind
    if kind in (InvalidSettings, Untrusted):
        assert ours is not None
        assert ours.remedy


def test_what_is_no_error_of_the_sdk_is_left_alone() -> None:
    assert translate(KeyError("ours"), "The cloud 'campus'") is None


def test_settings_refuse_what_cannot_be_meant(tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "driver": "openstack",
        "cloud": "campus",
        "image": "debian-12*",
        "allow_from": "192.0.2.0/24",
    }
    settings = OpenStackSettings.model_validate(
        good
        | {
            "zones": "nova",
            "clouds_file": str(tmp_path),
            "gpus": {"g*": {"model": "A100", "memory": "40GiB"}},
        }
    )
    assert settings.zones == ("nova",)
    assert settings.gpus["g*"].memory == 40 * GIB
    for bad in (
        {"cloud": ""},
        {"image": ""},
        {"allow_from": ["everybody"]},
        {"allow_from": ()},
        {"security_groups": "mine"},
        {"volume": "yes"},
        {"password": "x"},
    ):
        with pytest.raises(ValidationError):
            OpenStackSettings.model_validate(good | bad)
