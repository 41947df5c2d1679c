"""Programs that configurers installed for an instance: they come first on the path of what is run there."""

from __future__ import annotations

from dataclasses import replace

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection
from gridcloud.instances.model import Instance

__all__ = ["find_programs"]

READ = 'if [ -f .gridcloud/path ]; then printf "%s\\n" "$PATH"; head -c 16384 .gridcloud/path; fi'


async def find_programs(instance: Instance, connection: Connection, command: Command) -> Command:
    """Return the command with the folders that the instance's ``.gridcloud/path`` names put before its path.

    A configurer writes them there, one a line, the first to be searched first. Raises what running a command raises.
    """
    if not instance.configure or "PATH" in command.environment:
        return command
    done = await run(connection, Command(("/bin/sh", "-c", READ)))
    path, *folders = done.stdout.decode(errors="surrogateescape").splitlines() or [""]
    folders = [folder for folder in folders if folder.startswith("/")]
    if not folders:
        return command
    return replace(command, environment={**command.environment, "PATH": ":".join([*folders, path])})
