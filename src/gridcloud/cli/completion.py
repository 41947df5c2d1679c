"""What the shell may complete: read from files and a service that runs, never started for it."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = [
    "budgets",
    "cluster_providers",
    "clusters",
    "communities",
    "courses",
    "drivers",
    "instances",
    "jobs",
    "profiles",
    "providers",
    "sessions",
    "stacks",
]


def providers() -> list[str]:
    """Return the names of the configured providers."""
    from gridcloud.errors import GridcloudError
    from gridcloud.settings import SettingsFile, config_path

    try:
        return list(SettingsFile(config_path()).current()[0].providers)
    except GridcloudError:
        return []


def budgets() -> list[str]:
    """Return the names of the configured budgets."""
    from gridcloud.errors import GridcloudError
    from gridcloud.settings import SettingsFile, config_path

    try:
        return list(SettingsFile(config_path()).current()[0].budgets)
    except GridcloudError:
        return []


def profiles() -> list[str]:
    """Return the names of the configured profiles."""
    from gridcloud.errors import GridcloudError
    from gridcloud.settings import SettingsFile, config_path

    try:
        return list(SettingsFile(config_path()).current()[0].profiles)
    except GridcloudError:
        return []


def courses() -> list[str]:
    """Return the names of the configured courses."""
    from gridcloud.errors import GridcloudError
    from gridcloud.settings import SettingsFile, config_path

    try:
        return list(SettingsFile(config_path()).current()[0].courses)
    except GridcloudError:
        return []


def drivers() -> list[str]:
    """Return the installed instance drivers."""
    from gridcloud import plugins

    return list(plugins.names("instances"))


def instances() -> list[str]:
    """Return the ids of live instances and the names of one's own, where a service runs."""
    return _ask("instances")


def sessions() -> list[str]:
    """Return the ids of live sessions and the names of one's own, where a service runs."""
    return _ask("sessions")


def stacks() -> list[str]:
    """Return the ids of stacks and the names of one's own, where a service runs."""
    return _ask("stacks")


def clusters() -> list[str]:
    """Return the ids of live clusters and the names of one's own, where a service runs."""
    return _ask("clusters")


def jobs() -> list[str]:
    """Return the ids of live jobs and arrays, where a service runs."""
    from gridcloud.client import connect_async
    from gridcloud.errors import GridcloudError

    async def work() -> list[str]:
        async with asyncio.timeout(2), await connect_async(alone=True) as client:
            return [one.id for one in await client.jobs.list()]

    try:
        return asyncio.run(work())
    except (GridcloudError, TimeoutError):
        return []


def cluster_providers() -> list[str]:
    """Return the names of what makes clusters, as configured."""
    from gridcloud.errors import GridcloudError
    from gridcloud.settings import SettingsFile, config_path

    try:
        return list(SettingsFile(config_path()).current()[0].clusters)
    except GridcloudError:
        return []


def communities() -> list[str]:
    """Return the names of our communities of institutions, where a service runs."""
    from gridcloud.cli.printing import plain
    from gridcloud.client import connect_async
    from gridcloud.errors import GridcloudError

    async def work() -> list[str]:
        async with asyncio.timeout(2), await connect_async(alone=True) as client:
            return [one.name for one in await client.grid.communities()]

    try:
        return sorted({name for name in asyncio.run(work()) if name == plain(name)})
    except (GridcloudError, TimeoutError):
        return []


def _ask(what: str) -> list[str]:
    from gridcloud.cli.printing import plain
    from gridcloud.client import connect_async
    from gridcloud.errors import GridcloudError

    async def work() -> tuple[str, list[Any]]:
        async with asyncio.timeout(2), await connect_async(alone=True) as client:
            return (await client.version()).user, list(await getattr(client, what)())

    try:
        user, things = asyncio.run(work())
    except (GridcloudError, TimeoutError):
        return []
    names = [thing.name for thing in things if thing.owner == user and thing.name == plain(thing.name)]
    return [thing.id for thing in things] + sorted(filter(None, set(names)))
