"""The contract of a hook: something done before a session starts, which may give to it, or refuse it.

Every implementation passes `gridcloud.testing.hooks.HookContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.hooks.model import Context, Outcome
from gridcloud.settings.values import Duration

__all__ = ["Hook", "HookSettings", "Undoing"]


class HookSettings(BaseModel):
    """What one entry of ``before_start:`` holds besides ``use:``, the hook's name. Every field carries help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Duration = Field(default=30, ge=1, description="longest time that it may take")


class Hook(ABC):
    """One thing to do before sessions start; made for one entry of ``before_start:``, and used for any session."""

    Settings: ClassVar[type[HookSettings]] = HookSettings

    def __init__(self, settings: HookSettings, folder: Path) -> None:
        """Keep both; nothing is opened yet. ``folder`` is where relative paths start: the configuration file's own.

        Raises InvalidSettings for what no user could be served with.
        """
        self.settings = settings
        self.folder = folder

    @abstractmethod
    async def run(self, context: Context) -> Outcome:
        """Do it for one session, and return what the session gets.

        May be called again for the same user, and for several at once. Never blocks the loop. Cancelled after
        ``limit`` seconds. Raises GridcloudError, whose message the user reads: then the session does not start.
        """


@runtime_checkable
class Undoing(Protocol):
    """A hook that leaves something behind for a session which then does not start."""

    async def undo(self, context: Context, outcome: Outcome) -> None:
        """Take it back: a later hook failed, or the session did not start. May be called twice."""
        ...
