"""The disk that tells a virtual machine who it is: cloud-init's NoCloud source, as an ISO 9660 image labelled `cidata`.

A single folder of small files is all it takes, so it is written here, after ECMA-119, and needs no program on the
host. Names go in as they are (`user-data`): Linux takes letters beyond the standard's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from gridcloud.instances.first_boot import FirstBoot, render_user_data

__all__ = ["render_iso", "render_seed"]

SECTOR = 2048
FIRST = 16
"""The sector of the first volume descriptor."""
ROOT = FIRST + 4
"""The sector of the only folder: after two descriptors and two path tables."""


def render_seed(boot: FirstBoot) -> bytes:
    """Return the image for a machine. It holds the machine's private host key: keep it 0600."""
    about = f"instance-id: {boot.instance_id}\nlocal-hostname: {boot.instance_id}\n"
    # No word on the network: cloud-init then asks QEMU's own DHCP server, whatever manages the image's network.
    files = {"meta-data": about, "user-data": render_user_data(boot)}
    return render_iso("cidata", {name: text.encode() for name, text in files.items()})


def render_iso(label: str, files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image with these files in its root; labels and names are ASCII."""
    places, sector = {}, ROOT + 1
    for name, content in files.items():
        places[name] = sector
        sector += -(-len(content) // SECTOR)
    entries = _entry(b"\0", ROOT, SECTOR, folder=True) + _entry(b"\1", ROOT, SECTOR, folder=True)
    for name in sorted(files):
        entries += _entry(name.encode("ascii") + b";1", places[name], len(files[name]))
    if len(entries) > SECTOR:
        raise ValueError("so many names do not fit into one sector")
    parts = [
        bytes(SECTOR * FIRST),
        _volume(label, sector),
        b"\xffCD001\x01",  # the end of the descriptors
        _path_table("<"),
        _path_table(">"),
        entries,
        *files.values(),
    ]
    return b"".join(part + bytes(-len(part) % SECTOR) for part in parts)


def _volume(label: str, sectors: int) -> bytes:
    """Return the primary volume descriptor (ECMA-119, 8.4)."""
    return b"".join(
        (
            b"\x01CD001\x01\0",
            b" " * 32,
            label.encode("ascii").ljust(32),
            bytes(8),
            _both(sectors, "I"),
            bytes(32),
            _both(1, "H"),
            _both(1, "H"),
            _both(SECTOR, "H"),
            _both(10, "I"),
            struct.pack("<II", FIRST + 2, 0),
            struct.pack(">II", FIRST + 3, 0),
            _entry(b"\0", ROOT, SECTOR, folder=True),
            b" " * (128 * 4 + 37 * 3),
            (b"0" * 16 + b"\0") * 4,  # no dates: the same files give the same image
            b"\x01\0",
        )
    )


def _entry(name: bytes, sector: int, size: int, *, folder: bool = False) -> bytes:
    """Return a directory record (ECMA-119, 9.1), without a date."""
    body = b"".join(
        (
            b"\0",
            _both(sector, "I"),
            _both(size, "I"),
            bytes((70, 1, 1, 0, 0, 0, 0)),
            bytes((2 if folder else 0, 0, 0)),
            _both(1, "H"),
            bytes((len(name),)),
            name,
            b"\0" * (1 - len(name) % 2),
        )
    )
    return bytes((len(body) + 1,)) + body


def _path_table(order: str) -> bytes:
    return struct.pack(f"{order}BBIH", 1, 0, ROOT, 1) + b"\0\0"


def _both(number: int, size: str) -> bytes:
    return struct.pack(f"<{size}", number) + struct.pack(f">{size}", number)
