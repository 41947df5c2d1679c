"""Programs that configurers installed for an instance: they come first on the path of what is run there."""

from __future__ import annotations

from dataclasses import replace

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection
from gridcloud.instances.model import Instance

__all__ = ["find_programs"]

READ = r"""
cd .gridcloud 2>/dev/null || exit 0
for name in path jupyter; do
    if [ -f $name ]; then
        case $name in path) own=$PATH;; *) own=$JUPYTER_PATH;; esac
        printf '%s\n%s\n' "$name" "$own"
        head -c 16384 $name
        echo
    fi
done
"""

VARIABLES = {"path": "PATH", "jupyter": "JUPYTER_PATH"}


async def find_programs(instance: Instance, connection: Connection, command: Command) -> Command:
    """Return the command with the folders that the instance's ``.gridcloud/path`` names put before its path, and those
    of ``.gridcloud/jupyter`` before where Jupyter looks for kernels.

    A configurer writes them there, one a line, the first to be searched first. Raises what running a command raises.
    """
    if not instance.configure or "PATH" in command.environment:
        return command
    done = await run(connection, Command(("/bin/sh", "-c", READ)))
    environment = dict(command.environment)
    lines = iter(done.stdout.decode(errors="surrogateescape").splitlines())
    for name in lines:
        if variable := VARIABLES.get(name):
            own = environment.get(variable) or next(lines, "")
            folders = [line for line in iter(lambda: next(lines, ""), "") if line.startswith("/")]
            if folders:
                environment[variable] = ":".join([*folders, *([own] if own else [])])
    return replace(command, environment=environment)
