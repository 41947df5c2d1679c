"""What Oracle's shapes, images and prices mean: pure, from Oracle's words to ours.

Source: https://docs.oracle.com/iaas/Content/Compute/Concepts/preemptible.htm (half the price, virtual machines only).
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from gridcloud.drivers.instances.oci_settings import OCISettings, Rate
from gridcloud.drivers.oracle_shapes import cpus_of_ocpu, cut_shape, read_shape
from gridcloud.instances.choosing import Image, PricedShape
from gridcloud.instances.matching import shortfall
from gridcloud.instances.model import Request, Shape

__all__ = [
    "disk_size",
    "limit_shortage",
    "price_shape",
    "read_image",
    "read_price_list",
    "takes_of_limit",
    "wanted_images",
]

GIB = 1024**3
SMALLEST_DISK = 50
"""GB of a boot volume, at least."""
LARGEST_DISK = 32768


def price_shape(
    request: Request,
    words: Any,
    settings: OCISettings,
    rates: Mapping[str, Rate],
    prices: Mapping[str, Decimal],
) -> PricedShape:
    """Return one of Oracle's shapes as it would serve a request, or as large as it is where it cannot.

    Of a flexible shape it is just what is asked: OCPUs in whole numbers, memory in whole GB, within its limits for
    both. ``rates`` and ``prices`` are the price list's, by name of shape.
    """
    name, disk = str(words.shape), disk_size(request, settings)
    if words.is_flexible:
        ocpus, memory = cut_shape(words, request.cpus, request.memory)
        shape = read_shape(words, ocpus, memory, disk)
        if shortfall(request, shape):
            ocpus, memory = words.ocpu_options.max, words.memory_options.max_in_g_bs
            shape = read_shape(words, ocpus, memory, disk)
        choice = {"shape": name, "ocpus": ocpus, "memory": memory, "disk": disk}
    else:
        ocpus, memory = words.ocpus or 0, words.memory_in_gbs or 0
        shape = read_shape(words, ocpus, memory, disk)
        choice = {"shape": name, "disk": disk}
    own = _own_price(shape, ocpus, memory, settings, rates, prices)
    configured = next(
        (price for key, price in settings.prices.items() if fnmatch.fnmatchcase(name, key)), None
    )
    paid = own if configured is None else configured / settings.price_factor
    spot = paid / 2 if paid is not None and name.startswith("VM.") and "Micro" not in name else None
    return PricedShape(shape, own, spot, choice)


def disk_size(request: Request, settings: OCISettings) -> int:
    """Return the size of the boot volume in GB."""
    asked = math.ceil(max(request.disk, settings.disk) / GIB)
    return min(LARGEST_DISK, max(SMALLEST_DISK, asked))


def read_image(words: Any, settings: OCISettings) -> Image:
    """Return an image with the system that it holds in its choice: `Canonical Ubuntu 24.04`."""
    system = f"{words.operating_system or ''} {words.operating_system_version or ''}".strip()
    return Image(words.id, words.display_name or words.id, words.time_created, {"system": system})


def wanted_images(wanted: str, images: Iterable[Image], gpu: bool = False) -> list[Image]:
    """Return the images among which to choose: those whose system is wanted, where none has the name.

    Of newer ones Oracle says `Oracle Linux 9` alone: `Oracle Linux 9.6` is found by what their names begin with.

    A pattern may fit several editions: the one with drivers for GPUs is taken where there are GPUs, and the small one
    (`Canonical-Ubuntu-24.04-Minimal-…`) only where there is no other, since what has more serves more.
    """
    there = list(images)
    found = [one for one in there if wanted == one.id or fnmatch.fnmatchcase(one.name, wanted)]
    if not found:
        found = [one for one in there if fnmatch.fnmatchcase(one.choice["system"].lower(), wanted.lower())]
    if not found:
        spelled = "-".join(wanted.split()).lower() + "-*"
        found = [one for one in there if fnmatch.fnmatchcase(one.name.lower(), spelled)]
    for edition, better in (("-GPU-", gpu), ("-Minimal-", False)):
        found = [one for one in found if (edition in one.name) is better] or found
    return found


def takes_of_limit(limit: str, choice: Mapping[str, Any], shape: Shape) -> float:
    """Return how much of a service limit's resource one machine takes."""
    if limit.endswith("-core-count"):
        return float(choice.get("ocpus") or shape.cpus / cpus_of_ocpu(shape.name))
    if limit.endswith("-memory-count"):
        return float(choice.get("memory") or shape.memory / GIB)
    return float(shape.gpus or 1) if "gpu" in limit and limit.startswith("gpu") else 1.0


def limit_shortage(limit: str, needed: float, available: float, used: float) -> str:
    """Return in words what a limit leaves too little of; empty when it is enough."""
    if available >= needed:
        return ""
    return f"the service limit {limit} leaves {available:g} of {available + used:g}, {needed:g} are needed"


def read_price_list(document: Mapping[str, Any], currency: str) -> tuple[dict[str, Rate], dict[str, Decimal]]:
    """Return rates of flexible shapes, and prices per GPU, by pattern of the shapes' names.

    Of Oracle's public price list: items with `displayName` such as "Compute - Standard - E4 - OCPU" and
    `currencyCodeLocalizations`. What is not understood is left out: its price is not known then.
    """
    parts: dict[str, dict[str, Decimal]] = {}
    gpus: dict[str, Decimal] = {}
    for item in document.get("items", ()):
        name, price = str(item.get("displayName", "")), _price_in(item, currency)
        if price is None:
            continue
        if found := re.search(r"Compute - Standard - (\w+) - (OCPU|Memory)$", name):
            parts.setdefault(found[1], {})[found[2]] = price
        elif found := re.search(r"Compute - GPU - ([\w-]+)$", name):
            gpus[f"*.GPU.{found[1]}.*"] = price
    rates = {
        "VM.Standard3.Flex" if family == "X9" else f"VM.Standard.{family}.Flex": Rate(
            ocpu=both["OCPU"], memory=both["Memory"]
        )
        for family, both in parts.items()
        if {"OCPU", "Memory"} <= set(both)
    }
    return rates, gpus


def _own_price(
    shape: Shape,
    ocpus: float,
    memory: float,
    settings: OCISettings,
    rates: Mapping[str, Rate],
    prices: Mapping[str, Decimal],
) -> Decimal | None:
    """Return what a shape costs per hour, before the price factor; None: not known."""
    for table, factor in ((settings.rates, settings.price_factor), (rates, Decimal(1))):
        for pattern, rate in table.items():
            if fnmatch.fnmatchcase(shape.name, pattern):
                whole = rate.ocpu * Decimal(str(ocpus)) + rate.memory * Decimal(str(memory))
                return whole / factor  # what is configured is meant as it stands
    for pattern, price in prices.items():
        if shape.gpus and fnmatch.fnmatchcase(shape.name, pattern):
            return price * shape.gpus
    return None


def _price_in(item: Mapping[str, Any], currency: str) -> Decimal | None:
    for one in item.get("currencyCodeLocalizations", ()):
        if one.get("currencyCode") == currency:
            for price in one.get("prices", ()):
                if price.get("model") == "PAY_AS_YOU_GO":
                    return Decimal(str(price["value"]))
    return None
