"""What machines of Oracle's cloud cost: from the configuration, else from Oracle's public list."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from oci.core import models

from gridcloud.drivers.instances.oci_choices import Choices
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.drivers.instances.oci_shapes import price_shape
from gridcloud.drivers.oracle import Wire
from gridcloud.errors import Unreachable
from gridcloud.instances.model import Request


def item(name: str | None, value: float, currency: str = "EUR") -> dict[str, Any]:
    prices = [{"model": "PAY_AS_YOU_GO", "value": value}]
    return {"displayName": name, "currencyCodeLocalizations": [{"currencyCode": currency, "prices": prices}]}


ITEMS = [
    item("Oracle Cloud Infrastructure - Compute - Standard - E4 - OCPU", 0.02),
    item("Oracle Cloud Infrastructure - Compute - Standard - E4 - Memory", 0.001),
    item("Compute - Standard - X9 - OCPU", 0.04),
    item("Compute - Standard - X9 - Memory", 0.0015),
    item("Compute - Standard - E5 - OCPU", 0.03),
    item("Compute - GPU - A10", 2),
    item("Compute - GPU - H100", 10, "USD"),
    item(None, 1),
    {},
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def price_list(tmp_path: Path) -> Iterator[Path]:
    """A file, and beside it the address that serves it."""
    (tmp_path / "prices").write_text(json.dumps({"items": ITEMS}))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        (tmp_path / "address").write_text(f"http://127.0.0.1:{server.server_port}/prices")
        yield tmp_path / "prices"
        server.shutdown()
        thread.join()


def settings_of(address: str = "http://127.0.0.1:9/none", **more: Any) -> OCISettings:
    values = {"price_list": True, "price_list_address": address, "currency": "EUR"} | more
    return OCISettings(driver="oci", compartment="lab", image="*", allow_from=("192.0.2.0/24",), **values)


def choices_of(settings: OCISettings) -> Choices:
    return Choices(Wire(settings, "oracle"), settings, "oracle")


def flexible(name: str) -> Any:
    return models.Shape(
        shape=name,
        is_flexible=True,
        ocpu_options=models.ShapeOcpuOptions(min=1, max=64),
        memory_options=models.ShapeMemoryOptions(
            min_in_g_bs=1, max_in_g_bs=1024, min_per_ocpu_in_gbs=1, max_per_ocpu_in_gbs=64
        ),
    )


async def test_the_list_is_read_for_what_the_configuration_does_not_name(price_list: Path) -> None:
    settings = settings_of(
        (price_list.parent / "address").read_text(), rates={"*.E5.*": {"ocpu": "1", "memory": "0"}}
    )
    tables = await choices_of(settings).price_list()
    request = Request(cpus=4, memory="8GiB")

    def price(words: Any) -> Decimal | None:
        return price_shape(request, words, settings, *tables).price

    assert price(flexible("VM.Standard.E4.Flex")) == Decimal("0.048")
    assert price(flexible("VM.Standard3.Flex")) == Decimal("0.092")
    assert price(flexible("VM.Standard.E5.Flex")) == 2, "what is configured goes before the list"
    assert price(flexible("VM.Standard.A1.Flex")) is None
    two = models.Shape(shape="VM.GPU.A10.2", is_flexible=False, ocpus=30, memory_in_gbs=480, gpus=2)
    assert price(two) == 4
    assert price(models.Shape(shape="BM.GPU.H100.8", ocpus=112, memory_in_gbs=2048, gpus=8)) is None


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"items": [{"currencyCodeLocalizations": 7}]}'])
async def test_a_list_that_cannot_be_read_is_no_list(price_list: Path, text: str) -> None:
    price_list.write_text(text)
    choices = choices_of(settings_of((price_list.parent / "address").read_text()))
    assert await choices.price_list() == ({}, {})
    with pytest.raises(Unreachable, match="price list"):
        await choices.ask_price_list()


async def test_nobody_is_asked_where_that_is_not_wanted() -> None:
    assert await choices_of(settings_of(price_list=False)).price_list() == ({}, {})
    assert await choices_of(settings_of()).price_list() == ({}, {})


def test_half_the_price_where_oracle_may_take_it_back_but_for_bare_metal() -> None:
    settings = settings_of(prices={"*": "3"}, price_factor="1.5")
    for name, spot in (("VM.Standard2.1", 1), ("BM.Standard.E4.128", None), ("VM.Standard.E2.1.Micro", None)):
        words = models.Shape(shape=name, is_flexible=False, ocpus=1, memory_in_gbs=15)
        assert price_shape(Request(), words, settings, {}, {}).spot_price == spot
