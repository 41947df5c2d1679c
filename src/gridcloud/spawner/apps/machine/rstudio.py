"""Becomes RStudio's server on a Unix socket, with files of its own: ``python rstudio.py SOCKET BASE_URL``.

It needs an rserver that can listen on a socket, as those since 2024.12 can; on a port everybody on the machine could
use it, for it asks nobody who they are.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["main", "words"]


def words(program: str, socket: str, base_url: str, folder: Path) -> list[str]:
    """Return the command of RStudio's server; its files lie in ``folder``."""
    return [
        program,
        "--server-daemonize=0",
        f"--www-socket={socket}",
        f"--www-root-path={base_url}",
        "--www-frame-origin=same",
        "--www-verify-user-agent=0",
        "--auth-none=1",
        f"--server-user={getpass.getuser()}",
        f"--server-data-dir={folder}",
        f"--server-pid-file={folder / 'pid'}",
        f"--secure-cookie-key-file={folder / 'key'}",
        f"--database-config-file={folder / 'database'}",
    ]


def main(arguments: list[str]) -> int:
    """Start it in our place; return why that cannot be done."""
    socket, base_url = arguments
    program = shutil.which("rserver")
    if program is None:
        print("There is no program 'rserver' here.", file=sys.stderr)
        return 69
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=60)
    if "www-socket" not in said.stdout + said.stderr:
        print(
            "This RStudio Server listens on ports only: one of 2024.12 or later is needed.", file=sys.stderr
        )
        return 69
    folder = Path(f"{socket}.d")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text(secrets.token_hex(32))
    (folder / "database").write_text(f"provider=sqlite\ndirectory={folder}\n")
    os.environ["USER"] = getpass.getuser()
    return _become(words(program, socket, base_url, folder))


def _become(command: list[str]) -> int:
    os.execv(command[0], command)  # noqa: S606 - it has no shell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
