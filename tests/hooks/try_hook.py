"""A hook that does as it is told, installed as somebody's own is."""

from __future__ import annotations

from pathlib import Path

from tests.unit.distributions import write_distribution

__all__ = ["write_try_hook"]

HOOK = """
import asyncio, json
from pathlib import Path
from pydantic import Field
from gridcloud.errors import Forbidden
from gridcloud.hooks.driver import Hook, HookSettings
from gridcloud.hooks.model import Context, Mount, Outcome
from gridcloud.identity.credentials import Secret


class TrySettings(HookSettings):
    does: str = Field(default="give", description="what it does")
    name: str = Field(default="one", description="as whom it notes that")
    noted: str = Field(default="", description="where")
    mount: str = Field(default="", description="file of what is to be mounted")


class TryHook(Hook):
    Settings = TrySettings

    def note(self, words):
        if self.settings.noted:
            with open(self.settings.noted, "a") as file:
                file.write(words + "-" + self.settings.name + "\\n")

    async def run(self, context):
        self.note("run")
        match self.settings.does:
            case "refuse":
                raise Forbidden("You may not.", remedy="Ask them.")
            case "crash":
                1 / 0
            case "time":
                raise TimeoutError("of its own")
            case "false":
                return False
            case "none":
                return None
            case "sleep":
                await asyncio.sleep(60)
            case "newline":
                return Outcome({"A B": "1"})
            case "mount":
                known = json.loads(Path(self.settings.mount).read_text())
                return Outcome(mounts=(Mount(**{**known, "key": Secret(known["key"])}),))
            case "hub":
                return Outcome({"JUPYTERHUB_API_TOKEN": "1"})
        name = self.settings.name
        return Outcome({"GIVEN": f"{name} to {context.user}", name.upper(): "1"})

    async def undo(self, context, outcome):
        self.note("undo")
"""


def write_try_hook(folder: Path) -> Path:
    """Write a distribution with the hook ``try``; return the folder for the search path."""
    return write_distribution(folder, "try-hooks", "hooks", {"try": "try_hook:TryHook"}, {"try_hook": HOOK})
