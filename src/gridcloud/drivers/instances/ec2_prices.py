"""What shapes cost: Amazon's public price list, kept in a file for a day, and spot prices, asked for each time.

The price list is asked for a whole region at once (some ten pages) in a thread of its own, so that no request waits
for it; until it is there, and where the account may not read it, prices are not known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.drivers.instances.ec2_wire import Wire
from gridcloud.errors import GridcloudError

__all__ = ["Prices", "read_product"]

log = logging.getLogger(__name__)

DAY = 24 * 3600
RETRY = 3600
"""Seconds until the list is asked for again after it could not be had."""


class Prices:
    """Prices of one region, in US dollars per hour."""

    def __init__(self, wire: Wire, settings: EC2Settings, folder: Path) -> None:
        self._wire = wire
        self._settings = settings
        self._file = folder / f"prices-{settings.region}.json"
        self._known: dict[str, Decimal] = {}
        self._read_at = 0.0
        self._tried = 0.0
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.problem = ""
        """Why the list could not be had the last time."""

    def on_demand(self) -> Mapping[str, Decimal]:
        """Return the prices that are known now; have them fetched when they are old. Does not wait."""
        if not self._settings.price_list:
            return {}
        now = time.time()
        if now - self._read_at > DAY:
            self._read(now)
        if now - self._read_at > DAY and now - self._tried > RETRY and not self._closing.is_set():
            self._tried = now
            self._thread = threading.Thread(target=self._fetch, name="ec2 prices", daemon=True)
            self._thread.start()
        return self._known

    def wait(self, seconds: float = 20) -> Mapping[str, Decimal]:
        """Return the prices that are known, once they are fetched or the time is over. Blocking."""
        self.on_demand()
        if self._thread is not None:
            self._thread.join(seconds)
        return self.on_demand()

    def spot(self, shapes: Sequence[str]) -> dict[str, Decimal]:
        """Return the highest price of each shape over the zones, now. Blocking; raises what the wire raises."""
        found: dict[str, Decimal] = {}
        entries = self._wire.pages(
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=list(shapes),
            ProductDescriptions=["Linux/UNIX", "Linux/UNIX (Amazon VPC)"],
            StartTime=datetime.now(UTC),
        )
        for entry in entries:
            with contextlib.suppress(InvalidOperation):
                price = Decimal(entry["SpotPrice"])
                found[entry["InstanceType"]] = max(price, found.get(entry["InstanceType"], price))
        return found

    def close(self) -> None:
        """Let a fetch that goes on end. May be called twice."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(10)

    def _read(self, now: float) -> None:
        try:
            document = json.loads(self._file.read_text())
            if now - float(document["at"]) <= DAY:
                self._known = {name: Decimal(price) for name, price in document["prices"].items()}
                self._read_at = float(document["at"])
        except (OSError, ValueError, KeyError, TypeError, InvalidOperation):
            return

    def _fetch(self) -> None:
        try:
            prices: dict[str, Decimal] = {}
            for text in self._wire.pages(
                "get_products", "PriceList", "pricing", ServiceCode="AmazonEC2", Filters=self._filters()
            ):
                if self._closing.is_set():
                    return
                prices.update(read_product(json.loads(str(text))))
            at = time.time()
            document = {"at": at, "prices": {name: str(price) for name, price in prices.items()}}
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(document))
            os.replace(fresh, self._file)
            self._known, self._read_at, self.problem = prices, at, ""
        except (GridcloudError, OSError, ValueError) as error:
            self.problem = str(error)
            log.info("Amazon's price list cannot be had: %s", error)

    def _filters(self) -> list[dict[str, str]]:
        wanted = {
            "regionCode": self._settings.region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        return [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]


def read_product(product: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return the hourly price of the shape that one entry of the price list is about, or nothing.

    The form is that of the AWS Price List Query API: ``product.attributes.instanceType`` and below
    ``terms.OnDemand`` one offer with one dimension whose unit is ``Hrs``.
    """
    name = product.get("product", {}).get("attributes", {}).get("instanceType")
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            if dimension.get("unit") == "Hrs" and name:
                with contextlib.suppress(InvalidOperation, KeyError):
                    price = Decimal(dimension["pricePerUnit"]["USD"])
                    return {name: price} if price > 0 else {}
    return {}
