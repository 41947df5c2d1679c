"""A whole gridcloud within a test: its own configuration, data folder and providers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from gridcloud.connections.driver import Connection
from gridcloud.instances.model import FINAL, Instance, Request
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile
from tests.labs.containers import TINY_IMAGE, Engine
from tests.labs.machines import Machine

__all__ = [
    "configure",
    "containers",
    "end",
    "ended",
    "here",
    "link",
    "machines",
    "obtain",
    "open_house",
    "story",
]


def configure(folder: Path, providers: dict[str, dict[str, Any]], **sections: dict[str, Any]) -> SettingsFile:
    """Write a configuration file and return it."""
    path = folder / "config.yaml"
    # A busy computer's engine may take longer than people are to wait for its offers.
    limits = {"offers": 60} | sections.get("limits", {})
    path.write_text(yaml.safe_dump({"providers": providers, **sections, "limits": limits}))
    return SettingsFile(path, {})


@contextlib.asynccontextmanager
async def open_house(
    folder: Path, providers: dict[str, dict[str, Any]], kind: type[House] = House, **sections: dict[str, Any]
) -> AsyncIterator[House]:
    """Open a house over these providers; open it again over the same folder to see what outlives it."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    house = await kind.open(configure(folder, providers, **sections), data)
    try:
        yield house
    finally:
        await house.close()


def here(**settings: Any) -> dict[str, Any]:
    """Return the entry of a provider of this computer, whoever owns the instances."""
    return {"driver": "local", "allow_root": True, **settings}


def machines(*pool: Machine, **settings: Any) -> dict[str, Any]:
    """Return the entry of a provider of test machines."""
    hosts = [{"host": one.host, "user": one.user, "host_keys": one.host_key} for one in pool]
    return {"driver": "ssh", "hosts": hosts, "key": f"file:{pool[0].private_key}", **settings}


def containers(engine: Engine, image: str = TINY_IMAGE, **settings: Any) -> dict[str, Any]:
    """Return the entry of a provider of containers; nothing is fetched from anywhere."""
    return {
        "driver": "container",
        "engine": engine.url,
        "image": image,
        "pull": "never",
        "network": "none",
        **settings,
    }


async def obtain(house: House, owner: str = "ada", *, name: str = "", **asked: Any) -> Instance:
    """Return a small instance once it is ready."""
    request = Request(**({"cpus": 0.25, "memory": 64 << 20} | asked))
    instance = await house.instances.submit(owner, request, name=name)
    async with asyncio.timeout(60):
        return await house.instances.wait(instance.id)


async def link(house: House, instance: Instance) -> Connection:
    """Return the kept connection to a ready instance."""
    assert instance.address is not None
    return await house.links.get(instance.id, instance.address)


async def ended(house: House, instance_id: str, seconds: float = 30) -> Instance:
    """Return the instance once nothing is left of it."""
    async with asyncio.timeout(seconds):
        async for instance in house.instances.records.follow(instance_id):
            if instance.state in FINAL:
                return instance
    raise AssertionError("it never ended")


async def end(house: House, *instances: Instance) -> None:
    """Stop instances and see that no provider holds anything any more."""
    for instance in instances:
        await house.instances.stop(instance.id)
    for instance in instances:
        await ended(house, instance.id)
    assert await house.reconciliation.examine() == []


async def story(house: House, subject: str) -> str:
    """Return what the events of an instance or session say, one per line."""
    return "\n".join(f"{event.type}: {event.message}" for event in await house.store.events(subject=subject))
