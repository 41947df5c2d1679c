"""`offers` from six kinds of providers at once, beside the slowest of them alone in the same run.

    python -m benchmarks.offers_clouds [--rounds 5] [--json FILE]

EC2 (moto), Oracle's cloud (the tests' server, which verifies every signature), this computer, QEMU on it, and
two fake clouds that take 300 and 200 ms. Each is asked once before. Goal: under 1.5x the slowest one. The median of the
rounds counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tests.labs.moto import CREDENTIALS, REGION, Moto, moto_server
from tests.labs.oracle import Oracle

from benchmarks.report import run
from gridcloud.instances.model import Request
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile

WISH = Request(cpus=1, memory=512 << 20)


def measure(rounds: int) -> dict[str, Any]:
    """Return the seconds of all and of the slowest, and their ratio."""
    os.environ.update(CREDENTIALS)
    with moto_server() as moto, Oracle() as oracle, tempfile.TemporaryDirectory() as name:
        oracle.tenancy.add_compartment("lab")
        return asyncio.run(_measure(Path(name), _entries(moto, oracle, Path(name)), rounds))


def _entries(moto: Moto, oracle: Oracle, folder: Path) -> dict[str, dict[str, Any]]:
    image = moto.image()["ImageId"]
    disk = folder / "disk.qcow2"
    disk.touch()
    return {
        "ec2": {
            "driver": "ec2",
            "region": REGION,
            "endpoint": moto.url,
            "image": image,
            "shapes": ["t3.*"],
            "prices": {"*": 0.02},
            "price_list": False,
            "allow_from": ["192.0.2.0/24"],
        },
        "oracle": {
            "driver": "oci",
            "compartment": "lab",
            "config_file": str(oracle.write_config(folder)),
            "image": "Canonical-Ubuntu-24.04-*",
            "shapes": ["VM.Standard.E4.Flex"],
            "prices": {"*": 0.02},
            "allow_from": ["192.0.2.0/24"],
            "endpoint": oracle.url,
        },
        "here": {"driver": "local", "allow_root": True},
        "slow": {"driver": "fake", "latency": 300},
        "slower": {"driver": "fake", "latency": 200},
        "machines": {"driver": "qemu", "images": {"disk": {"source": str(disk)}}},
    }


async def _measure(folder: Path, entries: dict[str, dict[str, Any]], rounds: int) -> dict[str, Any]:
    (folder / "config.yaml").write_text(yaml.safe_dump({"providers": entries}))
    house = await House.open(SettingsFile(folder / "config.yaml", {}), folder / "data")
    try:
        await house.providers.offers(WISH)
        slowest, together = [], []
        for _ in range(rounds):
            alone = []
            for name in entries:
                begin = time.perf_counter()
                await house.providers.get(name).offers(WISH)
                alone.append(time.perf_counter() - begin)
            slowest.append(max(alone))
            begin = time.perf_counter()
            offers = await house.providers.offers(WISH)
            together.append(time.perf_counter() - begin)
        named = {offer.provider for offer in offers}
        if named != set(entries):
            raise SystemExit(f"no offers came from {sorted(set(entries) - named)}")
    finally:
        await house.close()
    one, all_ = statistics.median(slowest), statistics.median(together)
    return {
        "providers": len(entries),
        "slowest_seconds": one,
        "all_seconds": all_,
        "ratio": all_ / one,
        "goals": {"ratio": "under 1.5"},
    }


if __name__ == "__main__":
    run(__doc__, measure, rounds=5)
