"""The command line of one virtual machine: words for QEMU, and nothing but words, are made here.

What only the host knows is filled in there: ``@PORT@`` (a free port), ``@GPUS@`` (a pair of words for each GPU that
was reserved). The image, the kernel and the ramdisk are opened before QEMU starts, so that it needs no right to
their folders: file descriptors 3, 4 and 5. The working directory is the machine's own folder.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from gridcloud.drivers.instances.qemu_settings import QEMUImage, QEMUSettings

__all__ = ["Accelerator", "machine_words", "trial_words"]

Accelerator = Literal["kvm", "tcg"]

EMULATED = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"
"""What compiled Python packages expect nowadays (x86-64-v2), of a maker whose processors need no separate page tables
for the kernel: changing those at every system call makes an emulated machine several times slower."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

# What a machine loses when the host loses power, it loses anyway: it is gone then. So nothing waits for the disk.
_CACHE = {"direct": False, "no-flush": True}


def machine_words(
    settings: QEMUSettings,
    image: QEMUImage,
    instance_id: str,
    accelerator: Accelerator,
    cpus: float,
    memory: int,
) -> list[str]:
    """Return the words that start a machine of so many CPUs (whole ones) and so much memory (bytes)."""
    restricted = "off" if settings.outbound else "on"
    forward = "" if settings.agent else ",hostfwd=tcp:127.0.0.1:@PORT@-:22"
    words = [
        settings.program,
        *("-name", instance_id),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35,usb=off,vmport=off"),
        *("-accel", accelerator if accelerator == "kvm" else "tcg,thread=multi"),
        *("-cpu", settings.cpu or ("host" if accelerator == "kvm" else EMULATED)),
        *("-smp", str(math.ceil(cpus))),
        *("-m", f"{math.ceil(memory / 1024**2)}M"),
        *("-sandbox", SANDBOX),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        # A kernel that panics ends the machine where it can say so; else its console tells.
        *("-device", "pvpanic", "-action", "panic=exit-failure"),
        *_disks(image),
        *("-netdev", f"user,id=net,ipv6=off,restrict={restricted}{forward}"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
    ]
    if image.kernel:
        words += ["-kernel", "/dev/fd/4", *(("-initrd", "/dev/fd/5") if image.initrd else ())]
        words += ["-append", image.append]
    return [*words, "@GPUS@"]


def trial_words(program: str) -> list[str]:
    """Return the words that prove KVM within a second: the firmware finds nothing to start, and so it ends."""
    return [
        program,
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "kvm"),
        *("-cpu", "host", "-m", "64M", "-boot", "reboot-timeout=1", "-no-reboot"),
    ]


def _disks(image: QEMUImage) -> list[str]:
    """Return the words for the disks: the machine's own over the image, and the seed.

    The image names no further files: what its header says of such is not heeded.
    """
    errors = "rerror=report,werror=report"  # nobody is there to let a machine go on that stops for them
    base: dict[str, Any] = {
        "driver": image.format,
        "node-name": "image",
        "read-only": True,
        "file": {"driver": "file", "filename": "/dev/fdset/1", "cache": _CACHE, "aio": "threads"},
    }
    if image.format == "qcow2":
        base["backing"] = None
    disk = {
        "driver": "qcow2",
        "node-name": "disk",
        "file": {"driver": "file", "filename": "disk.qcow2", "cache": _CACHE, "discard": "unmap"},
        "cache": _CACHE,
        "discard": "unmap",
        "backing": "image",
    }
    seed = {
        "driver": "raw",
        "node-name": "seed",
        "read-only": True,
        "file": {"driver": "file", "filename": "seed.iso"},
    }
    return [
        *("-add-fd", "set=1,fd=3"),
        *("-blockdev", json.dumps(base), "-blockdev", json.dumps(disk), "-blockdev", json.dumps(seed)),
        *("-device", f"virtio-blk-pci,drive=disk,discard=on,{errors}"),
        *("-device", f"virtio-blk-pci,drive=seed,{errors}"),
    ]
