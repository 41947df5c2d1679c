"""What somebody meets who sets an OpenStack project up for the first time: each is told with what mends it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from gridcloud.drivers.instances.openstack_check import examine
from gridcloud.drivers.instances.openstack_choices import Choices
from gridcloud.drivers.instances.openstack_cloud import Cloud, FoundNetwork
from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.drivers.instances.openstack_words import Flavor, Quota
from gridcloud.drivers.openstack import read_cloud
from gridcloud.errors import InvalidSettings
from gridcloud.instances.choosing import Image
from gridcloud.instances.model import Request

MIB_OF_GIB = 1024
OUTSIDE = FoundNetwork("o", "outside", own=False, external=True, open=False, usable=True, secured=True)
OWN = FoundNetwork("n", "lab-net", own=True, external=False, open=True, usable=True, secured=True)
SHARED = FoundNetwork("s", "campus", own=False, external=True, open=True, usable=True, secured=True)


class Project(Cloud):
    """A project of three flavors, with room for two CPUs."""

    there: tuple[FoundNetwork, ...] = (OUTSIDE, OWN)

    def flavors(self) -> list[Flavor]:
        sizes = {"m1.small": 1, "m1.large": 2, "g1.huge": 16}
        return [Flavor(name, name, cpus, cpus * MIB_OF_GIB, 20) for name, cpus in sizes.items()]

    def images(self) -> list[Image]:
        return [Image("i", "debian-12", choice={"disk": 1})]

    def networks(self) -> list[FoundNetwork]:
        return list(self.there)

    def gateways(self, network: str) -> list[str]:
        return ["o"]

    def zones(self) -> list[str]:
        return ["nova"]

    def region(self) -> str:
        return "R"

    def project(self) -> str:
        return "p"

    def compute_quotas(self) -> list[Quota]:
        return [Quota("CPUs", 2, 0)]

    def address_quotas(self) -> list[Quota]:
        return []


Open = Callable[..., tuple[Project, Choices]]


@pytest.fixture
def project() -> Open:
    """Makes a project and what is chosen in it."""

    def make(*there: FoundNetwork, **settings: Any) -> tuple[Project, Choices]:
        words = {"driver": "openstack", "cloud": "c", "image": "debian-*", "allow_from": "192.0.2.0/24"}
        cloud = Project(OpenStackSettings.model_validate(words | settings))
        cloud.there = there or cloud.there
        return cloud, Choices(cloud, "campus")

    return make


def test_a_project_without_a_network_is_told_so_before_anything_is_tried(project: Open) -> None:
    cloud, choices = project(OUTSIDE)
    with pytest.raises(InvalidSettings, match=r"no network for machines.*outside") as caught:
        choices.offers(Request(cpus=1), lambda: 0)
    assert "docs/guide/openstack.md" in caught.value.remedy
    assert [one.subject for one in examine(cloud, choices) if not one.ok] == ["network"]


def test_machines_are_not_put_where_only_floating_addresses_come_from(project: Open) -> None:
    _, choices = project(network="outside")
    with pytest.raises(InvalidSettings, match="'outside', which gives floating addresses only") as caught:
        choices.network()
    assert caught.value.remedy == "Set 'network' to one of: lab-net."
    assert project()[1].network().network == OWN
    # One that is shared with the project takes machines as well.
    assert project(OUTSIDE, SHARED)[1].network().network == SHARED
    assert project(OUTSIDE, SHARED, network="campus")[1].network().network == SHARED


def test_flavors_that_the_entry_does_not_allow(project: Open) -> None:
    cloud, choices = project(shapes=["c1.*"])
    with pytest.raises(InvalidSettings, match=r"No shape there is called c1\.\*") as caught:
        choices.offers(Request(cpus=1), lambda: 0)
    assert "g1.huge, m1.large, m1.small" in caught.value.remedy
    assert [one.subject for one in examine(cloud, choices) if not one.ok] == ["shapes"]


def test_the_check_counts_flavors_that_the_project_could_have(project: Open) -> None:
    shapes = next(one for one in examine(*project()) if one.subject == "shapes")
    assert shapes.ok
    assert "2 flavors" in shapes.message
    assert "the largest: m1.large" in shapes.message
    assert "1 larger ones are beyond the project's quota" in shapes.message
    shapes = next(one for one in examine(*project(shapes="g1.*")) if one.subject == "shapes")
    assert not shapes.ok
    assert "2 CPUs at most, 16 needed by the smallest, g1.huge" in shapes.message


def test_flavors_are_listed_by_the_names_that_the_entry_uses_with_its_prices(project: Open) -> None:
    _, choices = project(prices={"m1.*": 0.5})
    prices = {one.name: one.price for one in choices.discover().shapes}
    assert prices == {"m1.small": Decimal("0.5"), "m1.large": Decimal("0.5"), "g1.huge": None}
    never = choices.offers(Request(cpus=4), lambda: 0)[0]
    assert not never.possible
    assert (never.shape.name, never.price, never.priced) == ("m1.large", Decimal("0.5"), True)
    assert not project()[1].offers(Request(cpus=4), lambda: 0)[0].priced


def test_a_cloud_that_clouds_yaml_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "clouds.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"campus": {"auth": {"auth_url": "http://127.0.0.1:9/v3"}}}}))
    with pytest.raises(InvalidSettings, match=rf"{file} has no cloud 'campsu'") as caught:
        read_cloud("The cloud 'campsu'", "campsu", file, "")
    assert "one of: campus" in caught.value.remedy
    with pytest.raises(InvalidSettings, match=r"no OS_… variables"):
        read_cloud("The cloud 'envvars'", "envvars", file, "")
