"""10,000 records against 10,000 things of a cloud, beside one SELECT and one set difference in the same process.

    python -m benchmarks.reconcile [--records 10000] [--orphans 100] [--rounds 3] [--json FILE]

The records are ready instances with all that a record has; the cloud holds one thing for each, save for as many as
are orphans: these it holds without a record. Looking and mending is what counts, in a process of its own that has
read the same store. Goals: under 10 s and under 300 MB. The best round counts, and the greatest memory of all.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import run
from gridcloud.clock import SystemClock
from gridcloud.connections.model import SSHAddress
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.lifecycle import step
from gridcloud.instances.model import (
    FINAL,
    Charge,
    Finding,
    Handle,
    Holding,
    Instance,
    Kind,
    Observation,
    Offer,
    Phase,
    Request,
    Shape,
    Spec,
    State,
    Step,
)
from gridcloud.instances.providers import Providers
from gridcloud.instances.reconciliation import Reconciliation
from gridcloud.settings import SettingsFile
from gridcloud.store import open_store
from gridcloud.store.lives import Lives

PROVIDER = "cloud"


class Holder(InstanceDriver):
    """A cloud that is nothing but what it holds."""

    held: dict[str, Holding]

    async def offers(self, request: Request) -> Sequence[Offer]:
        """None: nothing is made here."""
        return []

    async def create(self, spec: Spec) -> Handle:
        """Not asked."""
        raise NotImplementedError

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """All there run."""
        return {one: Observation(phase=Phase.RUNNING if one in self.held else Phase.GONE) for one in handles}

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Let go of one."""
        self.held.pop(instance_id, None)

    async def holdings(self) -> Sequence[Holding]:
        """All of them, as from a provider's answer: read anew."""
        return [Holding.model_validate(one.model_dump()) for one in self.held.values()]

    async def check(self) -> Sequence[Finding]:
        """Not asked."""
        return []

    async def close(self) -> None:
        """Nothing is open."""


def measure(records: int, orphans: int, rounds: int) -> dict[str, Any]:
    """Return seconds and megabytes of both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = {"driver": "fake", "shapes": [{"count": 0}]}
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": {PROVIDER: entry}}))
        asyncio.run(_fill(folder, records))
        words = [sys.executable, "-m", "benchmarks.reconcile", "--within", name, str(orphans), str(rounds)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
        return {"records": records, "orphans": orphans, **json.loads(done.stdout)} | {
            "goals": {"seconds": "under 10", "megabytes": "under 300"}
        }


async def _fill(folder: Path, records: int) -> None:
    store = await open_store(folder / "store.sqlite", SystemClock())
    lives = Lives(store, "instance", Instance, step, FINAL)
    for begin in range(0, records, 500):
        some = [_instance(number) for number in range(begin, min(records, begin + 500))]
        await asyncio.gather(*(lives.insert(one, "ready", "Ready.") for one in some))
    await store.close()


def _instance(number: int) -> Instance:
    """Return a record as that of a machine in a cloud is: about 3 kB."""
    now = datetime.now(UTC)
    shape = Shape(name="m5.large", cpus=2, memory=8 << 30, disk=30 << 30)
    words = "chosen of the 37 that fit, by price and then by what is left over"
    steps = tuple(
        Step(step=one, chosen=f"{one}-0123456789abcdef", why=words)
        for one in ("image", "shape", "location", "network")
    )
    offer = Offer(
        provider=PROVIDER,
        kind=Kind.VIRTUAL_MACHINE,
        shape=shape,
        price=Decimal("0.096"),
        location="eu-north-1a",
        steps=steps,
    )
    refused = offer.model_copy(update={"available": False, "why_not": "There is no capacity. " * 5})
    return Instance(
        id=f"i-{number:06}",
        owner=f"user{number % 100}",
        name=f"machine {number}",
        request=Request(time=3600),
        state=State.READY,
        offer=offer,
        refused=(refused,),
        handle=Handle(data={"id": f"i-0123456789{number:06}", "host_key": "ssh-ed25519 " + "A" * 68}),
        address=SSHAddress(
            host="192.0.2.1", user="gridcloud", host_keys=("ssh-ed25519 " + "A" * 68,), principal="gridcloud"
        ),
        charges=(Charge(provider=PROVIDER, shape="m5.large", price=Decimal("0.096"), since=now),),
        created=now,
        ready_at=now,
    )


async def _within(folder: Path, orphans: int, rounds: int) -> dict[str, float]:
    """Measure in this process, which did nothing else."""
    store = await open_store(folder / "store.sqlite", SystemClock())
    settings = SettingsFile(folder / "config.yaml", {})

    async def nowhere(address: Any) -> Any:
        raise NotImplementedError

    providers = Providers(lambda: settings.current()[0], store, folder / "providers", nowhere, lambda: "")
    await providers.remember(PROVIDER)
    driver = providers.get(PROVIDER)
    context = Context(PROVIDER, store.installation, folder, nowhere, "")
    holder = Holder(driver.settings, context)
    providers._drivers[PROVIDER] = holder
    lives = Lives(store, "instance", Instance, step, FINAL)
    reconciliation = Reconciliation(lives, providers, SystemClock())
    ids = await store.scan("instance", lambda record: record.id)
    if not ids:
        raise SystemExit("there are no records")
    base = _megabytes()
    plain, whole = [], []
    for _ in range(rounds):
        known = ids[orphans:] + [f"i-orphan{number}" for number in range(orphans)]
        holder.held = {one: _holding(one) for one in known}
        begin = time.perf_counter()
        there = {one.instance_id for one in await holder.holdings()}
        extra = there - set(await store.scan("instance", lambda record: record.id))
        plain.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        mended = await reconciliation.mend(await reconciliation.examine())
        whole.append(time.perf_counter() - begin)
        if {one.subject for one in mended if one.mended} != extra or len(extra) != orphans:
            raise SystemExit(f"{len(mended)} were found, {len(extra)} are too much")
    await providers.close()
    await store.close()
    return {
        "plain_seconds": min(plain),
        "seconds": min(whole),
        "megabytes_before": base,
        "megabytes": _megabytes(),
    }


def _holding(instance_id: str) -> Holding:
    return Holding(
        instance_id=instance_id,
        what="machine",
        name=f"i-0123456789abcdef/{instance_id}",
        created=datetime.now(UTC),
        handle=Handle(data={"id": instance_id}),
    )


def _megabytes() -> float:
    """Return the most memory that this process ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        print(json.dumps(asyncio.run(_within(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))))
    else:
        run(__doc__, measure, records=10_000, orphans=100, rounds=3)
