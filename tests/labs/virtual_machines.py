"""The image that the tests' virtual machines start from: built once (about three minutes) and kept in the cache.

It holds the session environment of `ownership.root_filesystem`. Where there is no KVM a machine is emulated, and its
SSH server answers after about a minute.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from tests.labs import ownership

__all__ = ["image_entry", "missing_for_virtual_machines", "prepare_image"]

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "setpriv": "util-linux",
}


def missing_for_virtual_machines() -> str | None:
    """Why none can be started here, with the command that mends it; None when they can."""
    if os.geteuid():
        return "virtual machines need root to build their image: sudo make test"
    lacking = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    return f"virtual machines need Debian packages: apt-get install {' '.join(lacking)}" if lacking else None


def prepare_image() -> Path:
    """Return the folder with disk.qcow2, vmlinuz and initrd, made at first use."""
    return Path(ownership.run_script([str(ownership.SCRIPTS / "build-machine-image"), "--session"]))


def image_entry(folder: Path) -> dict[str, Any]:
    """Return the image as the settings of a provider name it."""
    return {
        "source": str(folder / "disk.qcow2"),
        "kernel": str(folder / "vmlinuz"),
        "initrd": str(folder / "initrd"),
        # An emulated machine has nobody to keep secrets from, and a console that is slow to write to.
        "append": "root=/dev/vda rw console=ttyS0 mitigations=off quiet",
    }
