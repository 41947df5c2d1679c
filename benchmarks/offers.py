"""`offers` over 50 fake providers that take 200 ms each, beside asking the slowest one alone in the same run.

    python -m benchmarks.offers [--providers 50] [--latency 200] [--rounds 5] [--json FILE]

Goal: under 2x the slowest one. The best round of each counts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import run
from gridcloud.instances.model import Request
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile


def measure(providers: int, latency: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of both, and their ratio."""
    return asyncio.run(_measure(providers, latency, rounds))


async def _measure(providers: int, latency: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = {f"cloud{number:02}": {"driver": "fake", "latency": latency} for number in range(providers)}
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": entries}))
        house = await House.open(SettingsFile(folder / "config.yaml", {}), folder)
        try:
            alone, all_of_them = [], []
            for _ in range(rounds):
                begin = time.perf_counter()
                one = await house.providers.get("cloud00").offers(Request())
                alone.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                offers = await house.providers.offers(Request())
                all_of_them.append(time.perf_counter() - begin)
                if len(offers) != providers * len(one) or not all(offer.available for offer in offers):
                    raise SystemExit(f"{len(offers)} offers of {providers} providers came")
        finally:
            await house.close()
    return {
        "providers": providers,
        "slowest_seconds": min(alone),
        "all_seconds": min(all_of_them),
        "ratio": min(all_of_them) / min(alone),
        "goals": {"ratio": "under 2"},
    }


if __name__ == "__main__":
    run(__doc__, measure, providers=50, latency=200, rounds=5)
