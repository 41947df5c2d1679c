"""Where the configuration, the data and the private socket lie."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gridcloud.errors import Untrusted

__all__ = ["config_path", "data_folder", "short_folder", "socket_path"]

SOCKET_BYTES = 100
"""Linux keeps 107 bytes of a socket's path; a program that listens may add a few of its own."""


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file's path: ``GRIDCLOUD_CONFIG``, else the user's configuration folder."""
    if given := environment.get("GRIDCLOUD_CONFIG"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_config_path

    return user_config_path("gridcloud", appauthor=False) / "config.yaml"


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder, made for its owner only: ``GRIDCLOUD_DATA``, else the user's data folder.

    Raises Untrusted for one that is somebody else's, or in which everybody may write.
    """
    if given := environment.get("GRIDCLOUD_DATA"):
        folder = Path(given).expanduser().absolute()
    else:
        from platformdirs import user_data_path

        folder = user_data_path("gridcloud", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002:
        raise Untrusted(
            f"The data folder {folder} is not ours alone: others could put their files in place of ours.",
            remedy="Run 'chmod 700' on it, and 'chown' if it is another user's, or set GRIDCLOUD_DATA.",
        )
    return folder


def socket_path(data: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the service's private socket, in a folder for its owner only.

    It lies under the data folder, or, where that path would be too long for a socket, in the user's runtime folder
    or a folder in the temporary one. Raises Untrusted when somebody else has made that folder.
    """
    path = data / "run" / "service.sock"
    if len(os.fsencode(path)) > SOCKET_BYTES:
        name = hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:20] + ".sock"
        path = Path(environment.get("XDG_RUNTIME_DIR") or "/nowhere", "gridcloud", name)
        if not path.parent.parent.is_dir() or len(os.fsencode(path)) > SOCKET_BYTES:
            path = Path(tempfile.gettempdir(), f"gridcloud-{os.getuid()}", name)
        if len(os.fsencode(path)) > SOCKET_BYTES:
            path = Path("/tmp", f"gridcloud-{os.getuid()}", name)  # noqa: S108 - checked below
    _make_private(path.parent)
    return path


def short_folder(data: Path, name: str) -> Path:
    """Return a private folder for sockets with names of up to 20 bytes: ``name`` in the data folder, or, where that
    path would be too long, the folder of `socket_path`, which several data folders may share."""
    folder = data / name
    if len(os.fsencode(folder)) + 21 > SOCKET_BYTES:
        return socket_path(data).parent
    _make_private(folder)
    return folder


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Untrusted(
            f"The folder {folder} for the service's socket is not ours.",
            remedy="Remove it, or set XDG_RUNTIME_DIR.",
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
