"""Virtual machines behind the OpenStack lab's servers: nova boots none there, so QEMU does it beside nova.

    with OpenStackMachines(lab, tmp_path):
        ...                     # whatever server gets a floating address is started, and answers there at port 22

Where they are to be ``dialling``, each that has none is started: nobody reaches it, and it reaches this computer.
Each starts from the image of `virtual_machines` with its own user data, as nova's config drive would tell it, and ends
when nova has deleted its server. For as long its address, of the range for documentation, is on the loopback interface.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gridcloud.drivers.instances.qemu_seed import render_iso
from tests.labs import ownership
from tests.labs.openstack import OpenStack
from tests.labs.virtual_machines import prepare_image

__all__ = ["OpenStackMachines"]

POLL = 1.0
"""Seconds between looks at what servers there are."""


class OpenStackMachines:
    """The machines of one cloud, in ``folder``. A context manager."""

    def __init__(self, lab: OpenStack, folder: Path, *, dialling: bool = False) -> None:
        self._lab = lab
        self._dialling = dialling
        self._folder = folder
        self._image = prepare_image()
        self._ending = threading.Event()
        self._watch = threading.Thread(target=self._follow, name="openstack-machines")
        self.running: dict[str, _Machine] = {}
        """Machines by their servers' ids."""

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._watch.join()

    def consoles(self) -> str:
        """The last lines of each console, for whoever looks why something did not answer."""
        texts = (path.read_text(errors="replace")[-2000:] for path in sorted(self._folder.glob("*/console")))
        return "\n".join(texts)

    def _follow(self) -> None:
        try:
            with self._lab.administrator() as cloud:
                while not self._ending.wait(POLL):
                    self._match(self._servers(cloud))
        finally:
            self._match({})

    def _servers(self, cloud: Any) -> dict[str, tuple[Any, str]]:
        """Servers that run, with their floating address; those without one where they are to dial."""
        found = {}
        for server in cloud.compute.servers(details=True, all_projects=True, status="ACTIVE"):
            there = [one for addresses in server.addresses.values() for one in addresses]
            floating = [one["addr"] for one in there if one.get("OS-EXT-IPS:type") == "floating"]
            if server.user_data and bool(floating) != self._dialling:
                found[server.id] = (server, "".join(floating))
        return found

    def _match(self, servers: dict[str, tuple[Any, str]]) -> None:
        for key in [key for key in self.running if key not in servers]:
            self.running.pop(key).end()
        for key, (server, address) in servers.items():
            if key not in self.running:
                self.running[key] = _Machine(self._folder / key, self._image, server, address)


class _Machine:
    """One machine, from its making to `end`."""

    def __init__(self, folder: Path, image: Path, server: Any, address: str) -> None:
        self._address = f"{address}/32" if address else ""
        folder.mkdir(parents=True)
        user_data = base64.b64decode(server.user_data)
        about = f"instance-id: {server.id}\nlocal-hostname: {server.name}\n".encode()
        (folder / "seed.iso").write_bytes(render_iso("cidata", {"meta-data": about, "user-data": user_data}))
        _do("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image / "disk.qcow2"), "disk", "10G",
            folder=folder)  # fmt: skip
        network = "user,id=net,ipv6=off"
        if address:
            _do("ip", "address", "replace", self._address, "dev", "lo")
            # QEMU's own network answers loopback addresses and strangers, but not the address that it listens on.
            _do(*f"ip route replace local {address} dev lo table local src 127.0.0.1".split())
            network += f",restrict=on,hostfwd=tcp:{address}:22-:22"
        self._process = ownership.start_owned(
            [
                *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-machine", "q35,usb=off", "-accel", "tcg,thread=multi"),
                *("-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-smp", "2", "-m", "2048M"),
                *("-chardev", "file,id=console,path=console", "-serial", "chardev:console"),
                *("-drive", "file=disk,if=virtio,cache=unsafe"),
                *("-drive", "file=seed.iso,if=virtio,format=raw,readonly=on"),
                *("-netdev", network),
                *("-device", "virtio-net-pci,netdev=net,romfile="),
                *("-object", "rng-random,id=rng,filename=/dev/urandom"),
                *("-device", "virtio-rng-pci,rng=rng"),
                *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd")),
                *("-append", "root=/dev/vda rw console=ttyS0 mitigations=off quiet"),
            ],
            log=folder / "said",
        )
        print(f"{server.name} is started at {address or 'no address'}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End it at once, as a server's deletion does."""
        self._process.kill()
        self._process.wait()
        if self._address:
            _do("ip", "address", "delete", self._address, "dev", "lo")


def _do(*words: str, folder: Path | None = None) -> None:
    subprocess.run(words, cwd=folder, check=True, stdin=subprocess.DEVNULL)
