"""Offers as a table, and the reasons behind them: those that are the same in several zones once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Caller
from tests.labs.moto import REGION, Moto, moto_server


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as moto:
        yield moto


def configure_amazon(call: Caller, moto: Moto) -> None:
    image = moto.image()["ImageId"]
    entry = {"driver": "ec2", "region": REGION, "endpoint": moto.url, "image": image, "price_list": False}
    more = {"shapes": ["t3.small", "t3.medium"], "prices": {"*": 0.01}, "allow_from": ["192.0.2.0/24"]}
    call.program.configure({"amazon": {**entry, **more}}, limits={"offers": 60})


def test_shapes_are_named_where_they_have_names(call: Caller) -> None:
    lines = call("offers", "--cpus", "2", "--memory", "2GiB").splitlines()
    assert lines[0].split() == ["PROVIDER", "KIND", "SHAPE", "SIZE", "LOCATION", "PER", "HOUR", "NOW"]
    assert [line.split()[3] for line in lines[2:]] == ["small", "gpu"]
    lines = call("offers", "--on", "here").splitlines()
    assert lines[0].split() == ["PROVIDER", "KIND", "SIZE", "LOCATION", "PER", "HOUR", "NOW"]


def test_zones_with_the_same_reasons_are_told_of_together(call: Caller, moto: Moto) -> None:
    configure_amazon(call, moto)
    out = call("offers", "--memory", "2GiB", "--why")
    table, *blocks = out.split("\n\n")
    zones = {line.split()[7] for line in table.splitlines()[1:]}
    assert len(zones) > 1
    assert [block.splitlines()[0].split(",")[0] for block in blocks] == [
        "amazon t3.small",
        "amazon t3.medium",
    ]
    for block in blocks:
        (said,) = [line for line in block.splitlines() if line.split()[0] == "location"]
        assert all(zone in said for zone in zones)
        assert len([line for line in block.splitlines() if line.split()[0] == "network"]) == 1


def test_spot_machines_are_offered_for_a_flag_that_takes_no_value(call: Caller, moto: Moto) -> None:
    configure_amazon(call, moto)
    out = call("offers", "--spot", "--on", "amazon")
    assert "spot" in out, out
    assert "spot" not in call("offers", "--on", "amazon")
