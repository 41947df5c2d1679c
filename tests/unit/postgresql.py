"""A PostgreSQL server of its own for a test run: on a socket in a private folder, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["INSTALL", "find_programs", "serve"]

INSTALL = (
    "no PostgreSQL server here: run `apt-get install postgresql` and `pip install 'gridcloud[postgresql]'`"
)


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, newest version first; Debian keeps them off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: one.parent.name, reverse=True)
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def serve(programs: Path) -> Iterator[Path]:
    """Run a server and give the folder of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="gcpg-"))
    account = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    os.chown(folder, account.pw_uid, account.pw_gid)
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "gridcloud", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            **who,
        )
        control: list[str | Path] = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c unix_socket_permissions=0700"
        subprocess.run(
            [*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/", **who
        )
        try:
            yield folder
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/", **who
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
