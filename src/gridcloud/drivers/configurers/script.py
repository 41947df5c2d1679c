"""Configure a machine with a script."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gridcloud.configurers.commands import Outcome, run, run_as_root
from gridcloud.configurers.driver import Configurer, ConfigurerSettings, Report, local_path
from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import ConfigurationFailed

__all__ = ["ScriptConfigurer", "ScriptSettings", "describe"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ScriptSettings(ConfigurerSettings):
    """A script that runs once on every machine, in the instance's own folder."""

    script: Path | None = Field(
        default=None, description="the script's file, relative to the configuration file"
    )
    text: str = Field(default="", description="the script itself, in place of a file")
    interpreter: tuple[str, ...] = Field(
        default=("/bin/sh",), min_length=1, description="the program that runs it, and words before its path"
    )
    arguments: tuple[str, ...] = Field(default=(), description="words after its path")
    environment: dict[str, str] = Field(
        default_factory=dict, description="variables it gets besides GRIDCLOUD_*"
    )
    root: bool = Field(default=False, description="run it as root, by `sudo -n` where the account is another")

    @model_validator(mode="after")
    def _one_script(self) -> Self:
        if (self.script is None) == (not self.text):
            raise ValueError("give either `script`, a file, or `text`")
        for word in (*self.interpreter, *self.arguments, *self.environment.values(), self.text):
            if "\0" in word:
                raise ValueError("a NUL character can be in no script, argument or variable")
        for name in self.environment:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
        return self


class ScriptConfigurer(Configurer):
    """Puts a script on the machine, runs it, and takes it away again."""

    Settings = ScriptSettings
    settings: ScriptSettings

    async def check(self) -> None:
        self._source()

    async def configure(self, connection: Connection, facts: Facts, report: Report) -> None:
        settings = self.settings
        place = f".gridcloud/script-{secrets.token_hex(8)}"
        await _put(connection, self._source(), place)
        try:
            command = Command(
                words=(*settings.interpreter, place, *settings.arguments),
                environment={**settings.environment, **describe(facts)},
            )
            start = run_as_root if settings.root else run
            outcome = await start(connection, command, report)
        finally:
            await asyncio.shield(_remove(connection, place))
        if outcome.code != 0:
            raise ConfigurationFailed(self._failure(outcome), remedy=_REMEDIES.get(outcome.code, ""))

    def _source(self) -> Path | str:
        if self.settings.script is None:
            return self.settings.text
        return local_path(self.folder, self.settings.script, "script")

    def _failure(self, outcome: Outcome) -> str:
        name = self.settings.script.name if self.settings.script else "of the configuration"
        told = f": {outcome.last_words}" if outcome.lines else ", and said nothing."
        return f"The script {name} ended with {outcome.code}{told}"


def describe(facts: Facts) -> dict[str, str]:
    """Return the variables GRIDCLOUD_* that tell a script of its machine. Their values are anybody's text."""
    told = facts.model_dump(exclude={"variables"})
    found = {f"GRIDCLOUD_{name.upper()}": str(value).replace("\0", "") for name, value in told.items()}
    for name, value in facts.variables.items():
        if _NAME.fullmatch(name):
            found[f"GRIDCLOUD_VARIABLE_{name}"] = value.replace("\0", "")
    return found


_REMEDIES = {
    126: "The interpreter is no program on that machine.",
    127: "A program it asks for, perhaps its interpreter, is not on that machine.",
}


async def _put(connection: Connection, source: Path | str, place: str) -> None:
    with tempfile.TemporaryDirectory(prefix="gridcloud-") as folder:
        copy = Path(folder) / "script"
        copy.touch(mode=0o600)
        if isinstance(source, str):
            copy.write_text(source, encoding="utf-8")
        else:
            await asyncio.to_thread(shutil.copyfile, source, copy)
        await connection.put(copy, place)


async def _remove(connection: Connection, place: str) -> None:
    # What is lost with the connection cannot be tidied; it lies in the instance's own folder and goes with it.
    try:
        await run(connection, Command(words=("rm", "-f", "--", place)), lambda line: None)
    except Exception as error:
        _log.debug("the script %s stays on the machine: %s", place, error)
