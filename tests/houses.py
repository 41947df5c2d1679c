"""A whole gridcloud within a test: its own configuration, data folder and providers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from gridcloud.service.house import House
from gridcloud.settings import SettingsFile

__all__ = ["configure", "open_house"]


def configure(folder: Path, providers: dict[str, dict[str, Any]], **sections: dict[str, Any]) -> SettingsFile:
    """Write a configuration file and return it."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"providers": providers, **sections}))
    return SettingsFile(path, {})


@contextlib.asynccontextmanager
async def open_house(
    folder: Path, providers: dict[str, dict[str, Any]], **sections: dict[str, Any]
) -> AsyncIterator[House]:
    """Open a house over these providers; open it again over the same folder to see what outlives it."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    house = await House.open(configure(folder, providers, **sections), data)
    try:
        yield house
    finally:
        await house.close()
