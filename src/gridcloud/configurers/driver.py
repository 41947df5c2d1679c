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
from gridcloud.errors import InvalidSettings

__all__ = ["Configurer", "ConfigurerSettings", "Report", "entry", "local_path"]

Report = Callable[[str], None]
"""Called with each line of output as it comes, without its line end, never empty; secrets left out."""


class ConfigurerSettings(BaseModel):
    """What one entry of ``configure:`` holds besides ``use:``, the configurer's name. Every field carries help."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Configurer(ABC):
    """One way to configure machines; made for one entry of ``configure:`` and used for any number of machines."""

    Settings: ClassVar[type[ConfigurerSettings]] = ConfigurerSettings

    def __init__(self, settings: ConfigurerSettings, folder: Path | None) -> None:
        """Keep both. ``folder`` is where relative paths of the entry start: the configuration file's own.

        None: the entry came with somebody's request and may name no file of this computer (see `local_path`).
        """
        self.settings = settings
        self.folder = folder

    @abstractmethod
    async def check(self) -> None:
        """Raise InvalidSettings for what is wrong with the entry itself (a missing playbook), DriverUnavailable for
        a tool that is not installed here, before any machine is asked for. Returns within 5 seconds."""

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


def local_path(folder: Path | None, path: Path, what: str) -> Path:
    """Return a path that an entry names, absolute. Every file that a configurer reads here comes through this.

    Raises InvalidSettings when nothing is there, or when the entry came with a request: whoever asks for a machine
    does not get to read the files of the computer that gridcloud runs on.
    """
    if folder is None:
        raise InvalidSettings(
            f"A request may not name {what} on gridcloud's own computer: {str(path)!r}.",
            remedy="Write it into the request itself, or have it set up in the configuration file.",
        )
    found = (folder / path.expanduser()).absolute()
    if not found.exists():
        raise InvalidSettings(f"There is no {what} {str(found)!r}.", remedy="Mend its path or create it.")
    return found
