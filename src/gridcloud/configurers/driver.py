"""The contract of a configurer: make one reached machine as it should be, telling each line as it comes.

Every implementation passes `gridcloud.testing.configurers.ConfigurerContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Connection

__all__ = ["Configurer", "ConfigurerSettings", "Report", "entry"]

Report = Callable[[str], None]
"""Called with each line of output as it comes, without its line end; secrets left out."""


class ConfigurerSettings(BaseModel):
    """What one entry of ``configure:`` holds besides ``use:``, the configurer's name. Every field carries help."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Configurer(ABC):
    """One way to configure machines; made for one entry of ``configure:`` and used for any number of machines."""

    Settings: ClassVar[type[ConfigurerSettings]] = ConfigurerSettings

    def __init__(self, settings: ConfigurerSettings, folder: Path) -> None:
        """Keep both. ``folder`` is where relative paths of the entry start: the configuration file's own."""

    @abstractmethod
    async def check(self) -> None:
        """Raise InvalidSettings for what is wrong with the entry itself (a missing playbook, a tool that is not
        installed), before any machine is asked for. Returns within 5 seconds."""

    @abstractmethod
    async def configure(self, connection: Connection, facts: Facts, report: Report) -> None:
        """Configure the machine. May be called again on one that is half or wholly configured; takes as long as
        it takes and can be cancelled.

        Raises ConfigurationFailed with the tool's own last words; ConnectionLost or Unreachable when the machine
        does not answer (the caller tries once more).
        """


def entry(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split an entry of ``configure:`` into the configurer's name and its settings."""
    settings = dict(document)
    return str(settings.pop("use", "")), settings
