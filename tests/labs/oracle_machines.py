"""Machines behind `tests.labs.oracle`: for each running instance one of `tests.labs.machines`, booted by its user data.

    with Oracle() as cloud, OracleMachines(cloud):
        ...  # what the cloud launches answers at its public address a moment later, and is gone with the instance

The machine has the host key, the account and the files that its user data says, and no other key or password opens it.
Of its `runcmd` what needs systemd is left out.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
from types import TracebackType
from typing import Any, Self

import asyncssh
import yaml

from tests.labs.machines import Lab, Machine
from tests.labs.oracle import Oracle
from tests.labs.oracle_tenancy import Thing

__all__ = ["OracleMachines"]

POLL = 0.1
"""Seconds between looks at what the cloud has."""

SSHD = "/etc/ssh/sshd_config.d/10-gridcloud.conf"

FIRST_BOOT = """\
set -eu
user={user}
useradd --create-home --shell /bin/bash "$user"
usermod -p '*' "$user"  # neither a password nor locked, which sshd without PAM takes for shut
echo "$user ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/80-first-boot
{modes}
{commands}
"""


class OracleMachines:
    """The machines of one cloud; a context manager. They live in a thread of their own, which they die with."""

    def __init__(self, cloud: Oracle) -> None:
        self.machines: dict[str, Machine] = {}
        """Those that are up, by the id of the instance."""
        self.logs: list[str] = []
        """What the sshds of those that have ended had said."""
        self.impostor = False
        """Whether machines answer with a host key that is not theirs."""
        self.gateway = ""
        """The address that machines see us from."""
        self._cloud = cloud
        self._addresses: dict[str, str] = {}
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="machines")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(600) or not self.gateway:
            raise RuntimeError("the network of the machines could not be made")
        self._cloud.tenancy.address = self._address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _address(self, instance: Thing) -> tuple[str, str]:
        host = f"{self.gateway.rpartition('.')[0]}.{10 + len(self._addresses) % 110}"
        self._addresses[instance.id] = host
        return host, host

    async def _serve(self) -> None:
        try:
            with Lab() as lab:
                self.gateway = lab.gateway
                self._ready.set()
                while not self._ended.is_set():
                    await self._follow(lab)
                    await asyncio.sleep(POLL)
        finally:
            self._ready.set()

    async def _follow(self, lab: Lab) -> None:
        tenancy = self._cloud.tenancy
        with tenancy.lock:
            tenancy.settle()
            running = {one.id: one for one in tenancy.of("instance", lifecycleState="RUNNING")}
        for id_ in [id_ for id_ in self.machines if id_ not in running]:
            machine = self.machines.pop(id_)
            self.logs.append(machine.log.read_text(errors="replace"))
            lab.stop(machine)
        for id_, instance in running.items():
            if id_ not in self.machines:
                try:
                    self.machines[id_] = await self._boot(lab, instance)
                except Exception as error:  # told, so that the test that waits for the machine shows it
                    print(f"{instance.words.get('displayName')}: {error}", file=sys.stderr)

    async def _boot(self, lab: Lab, instance: Thing) -> Machine:
        document = yaml.safe_load(base64.b64decode(instance.words["metadata"]["user_data"]))
        files = {one["path"]: one["content"] for one in document["write_files"]}
        key = asyncssh.import_private_key(document["ssh_keys"]["ed25519_private"])
        if self.impostor:
            key = asyncssh.generate_private_key("ssh-ed25519")
        return await lab.start(
            f"oci-{list(self._addresses).index(instance.id)}",
            address=self._addresses[instance.id],
            host_key=key,
            sshd_config=files[SSHD] + "AuthorizedKeysFile none\n",
            files={**files, "/etc/first-boot": render_first_boot(document)},
            timeout=120,
        )


def render_first_boot(document: dict[str, Any]) -> str:
    """Return as a script what cloud-init would do of a document, beyond writing its files."""
    [account, *_] = document["users"]
    modes = [f"chmod {one['permissions']} {one['path']}" for one in document["write_files"]]
    commands = [" ".join(words) for words in document["runcmd"] if isinstance(words, list)]
    return FIRST_BOOT.format(user=account["name"], modes="\n".join(modes), commands="\n".join(commands))
