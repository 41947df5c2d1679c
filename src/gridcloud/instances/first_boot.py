"""The first boot of a machine in a cloud: who it is, whom it lets in, and when it ends itself.

Rendered as cloud-init user data (https://docs.cloud-init.io, modules ssh, users, write_files, runcmd), which every
image for clouds understands. The machine is given its host key, so that the first connection to it is verified
already; it lets in the account of its owner with certificates of our authority for this one instance, and nothing
else; and it powers itself off at its expiry, whatever has become of us.

User data can be read by whoever may read it at the provider, and on the machine by its owner. So the host key in it
is made for this one machine and believed for nothing else, and the token of an agent is used before anybody is there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import Rejected, Transient
from gridcloud.instances.agent_boot import render_agent
from gridcloud.instances.bootstraps import AgentBoot

__all__ = [
    "FirstBoot",
    "HostKey",
    "HostKeys",
    "arm",
    "arming_principal_of",
    "principal_of",
    "render_user_data",
]

ARM = "/usr/local/sbin/gridcloud-arm"
END = "/usr/local/sbin/gridcloud-end"
STATE = "/var/lib/gridcloud-machine"
ENDS = f"{STATE}/ends"
IDLE = f"{STATE}/idle"
USED = f"{STATE}/used"
SEEN = f"{STATE}/seen"
BOOT = "/proc/sys/kernel/random/boot_id"
ARM_USER = "gridcloud-arm"
"""Account that may say when the machine ends, where its owner may not."""
PRINCIPALS = "/etc/ssh/gridcloud_principals"
AUTHORITY = "/etc/ssh/gridcloud_user_authority.pub"

IDLE_GRACE = 1800
"""Seconds that a machine waits longer than we do before it takes itself for idle: it sees less than we."""

LEAST_CPU = 5
"""Percent of a core above which the whole machine is at work."""

LONGEST = 100 * 365 * 24 * 3600

# Seconds are counted by the machine itself, so that it does not matter whether its clock is right: by the time since
# it started, which nobody sets, and by its clock once it was started again.
_ARM = f"""\
#!/bin/sh
# gridcloud-arm SECONDS [IDLE]: this machine powers itself off in so many seconds, and when it was not used for IDLE
# seconds and nobody said otherwise. 0: never.
set -eu
for one in "${{1:-}}" "${{2:-0}}"; do
  case $one in '' | *[!0-9]*) echo 'usage: gridcloud-arm SECONDS [IDLE]' >&2; exit 2 ;; esac
done
mkdir -p {STATE}
if [ "$1" = 0 ]; then
  rm -f {ENDS}
else
  read -r up rest </proc/uptime
  echo "$(($(date +%s) + $1)) $((${{up%%.*}} + $1)) $(cat {BOOT})" >{ENDS}.new
  mv {ENDS}.new {ENDS}
fi
# Whoever is on the machine may say that it is used: the file holds nothing but its time.
[ -e {USED} ] || {{ : >{USED}; chmod 666 {USED}; }}
touch {USED}
case ${{2:-}} in
  '') ;;
  0) rm -f {IDLE} ;;
  *) echo "$2" >{IDLE}.new; mv {IDLE}.new {IDLE} ;;
esac
"""

_END = f"""\
#!/bin/sh
# Run every half minute: power off when the time noted is over, or when the machine was not used for long.
end() {{
  logger -t gridcloud "$1" 2>/dev/null || :
  systemctl poweroff -i 2>/dev/null || shutdown -h now 2>/dev/null || poweroff -f
  exit 0
}}
now=$(date +%s)
at=; up_to=; boot=; {{ read -r at up_to boot <{ENDS}; }} 2>/dev/null
left=$((${{at:-$((now + 1))}} - now))
if [ -n "$boot" ] && [ "$boot" = "$(cat {BOOT})" ]; then
  read -r up rest </proc/uptime
  left=$((up_to - ${{up%%.*}}))
  drift=$((now + left - at))
  # The clock was set since: a start of the machine to come is to know the right time, too.
  if [ ${{drift#-}} -gt 60 ]; then
    echo "$((now + left)) $up_to $boot" >{ENDS}.new && mv {ENDS}.new {ENDS}
  fi
fi
[ $left -gt 0 ] || end 'the time of this machine is over'
idle=; {{ read -r idle <{IDLE}; }} 2>/dev/null
[ -n "$idle" ] || exit 0

# Used is what takes {LEAST_CPU} % of a core (ticks are hundredths of a second), a terminal, or a GPU.
read -r name user nice system rest </proc/stat
busy=$((user + nice + system))
then=; before=; {{ read -r then before <{SEEN}; }} 2>/dev/null
echo "$now $busy" >{SEEN}
span=$((now - ${{then:-$now}}))
used=no
# A clock that was set, or a new start of the machine, begins anew.
if [ $span -le 0 ] || [ $span -gt 300 ] || [ $busy -lt "$before" ]; then used=yes; fi
[ $used = yes ] || [ $((busy - before)) -lt $(({LEAST_CPU} * span)) ] || used=yes
if [ -n "$(find /dev/pts -name '[0-9]*' -mmin -1 2>/dev/null)" ]; then used=yes; fi
if [ $used = no ] && command -v nvidia-smi >/dev/null; then
  timeout 10 nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null |
    grep -q '[1-9]' && used=yes
fi
if [ $used = yes ]; then touch {USED}; fi
since=$(stat -c %Y {USED} 2>/dev/null || echo "$now")
[ $((now - since)) -lt $((idle + {IDLE_GRACE})) ] || end 'nobody uses this machine'
"""

_SERVICE = f"""\
[Unit]
Description=End this machine when its time is over
[Service]
Type=oneshot
TimeoutStartSec=25
ExecStart={END}
"""

_TIMER = """\
[Unit]
Description=Look whether the time of this machine is over
[Timer]
OnBootSec=30
OnUnitActiveSec=30
AccuracySec=5
[Install]
WantedBy=timers.target
"""

_SSHD = f"""\
TrustedUserCAKeys {AUTHORITY}
AuthorizedPrincipalsFile {PRINCIPALS}/%u
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
"""

# Images older than sshd_config.d read one file only.
_INCLUDE = (
    "grep -qsi '^[[:space:]]*include[[:space:]].*sshd_config.d' /etc/ssh/sshd_config || "
    "{ cat /etc/ssh/sshd_config.d/10-gridcloud.conf /etc/ssh/sshd_config >/etc/ssh/sshd_config.new && "
    "mv /etc/ssh/sshd_config.new /etc/ssh/sshd_config; }"
)
_RELOAD = "systemctl try-reload-or-restart ssh.service || systemctl try-reload-or-restart sshd.service || :"


@dataclass(frozen=True, slots=True)
class HostKey:
    """The host key of one machine: the private half in OpenSSH's own form, and the public line."""

    private: str
    public: str

    def __repr__(self) -> str:
        return f"HostKey({self.public!r})"


class HostKeys:
    """Host keys of a provider's machines. The same id gives the same key, so that asking twice makes one machine."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the provider's private one; a secret of 32 bytes is kept there (0600)."""
        self._path = folder / "host-key-seed"

    def key(self, instance_id: str) -> HostKey:
        """Return the key of an instance."""
        seed = hmac.digest(self._secret(), f"host key {instance_id}".encode(), hashlib.sha256)
        key = Ed25519PrivateKey.from_private_bytes(seed)
        private = _steady(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        return HostKey(private, public)

    def _secret(self) -> bytes:
        while True:
            try:
                return self._path.read_bytes()
            except FileNotFoundError:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
                descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    os.write(descriptor, secrets.token_bytes(32))
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                try:
                    os.link(fresh, self._path)  # whoever comes first has made it
                except FileExistsError:
                    continue
                finally:
                    fresh.unlink()


@dataclass(frozen=True, slots=True)
class FirstBoot:
    """What a machine is told at its first boot."""

    instance_id: str
    host_key: HostKey
    user_authority: str
    """Public key lines of the authorities whose user certificates it accepts."""
    user: str = "gridcloud"
    """The owner's account, made by the machine."""
    sudo: bool = True
    """Whether the owner may become root: a machine is theirs alone."""
    seconds: int = 0
    """Seconds after which it powers itself off unless it is told otherwise; 0: never."""
    idle: int = 0
    """Seconds without use after which, and half an hour more, it powers itself off; 0: never."""
    run: tuple[str, ...] = ()
    """More shell lines to run as root, once."""
    agent: AgentBoot | None = None
    """What reaches the machine where nothing from outside does."""


def principal_of(instance_id: str) -> str:
    """Return the name in certificates that open this one instance."""
    return f"gridcloud-{instance_id}"


def arming_principal_of(instance_id: str) -> str:
    """Return the name in certificates that may say when this one instance ends."""
    return f"gridcloud-arm-{instance_id}"


def render_user_data(boot: FirstBoot) -> str:
    """Return the cloud-config document. It holds the private host key: give it to nobody but the machine."""
    idle = [str(boot.idle)] if boot.idle else []
    files, start = render_agent(boot.agent, boot.user) if boot.agent else ([], "")
    document = {
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": boot.host_key.private, "ed25519_public": boot.host_key.public + "\n"},
        "disable_root": True,
        "ssh_pwauth": False,
        "users": [_account(boot), *([] if boot.sudo else [_ARMING_ACCOUNT])],
        "write_files": [
            _file(AUTHORITY, boot.user_authority.strip() + "\n"),
            _file(f"{PRINCIPALS}/{boot.user}", principal_of(boot.instance_id) + "\n"),
            *([] if boot.sudo else [_arming_principals(boot)]),
            _file("/etc/ssh/sshd_config.d/10-gridcloud.conf", _SSHD, "0600"),
            _file(
                "/etc/sudoers.d/90-gridcloud-arm",
                f"{boot.user if boot.sudo else ARM_USER} ALL=(root) NOPASSWD: {ARM}\n",
                "0440",
            ),
            _file(ARM, _ARM, "0755"),
            _file(END, _END, "0755"),
            _file("/etc/systemd/system/gridcloud-end.service", _SERVICE),
            _file("/etc/systemd/system/gridcloud-end.timer", _TIMER),
            *(_file(path, content, mode) for path, content, mode in files),
        ],
        "runcmd": [
            *([[ARM, str(boot.seconds), *idle]] if boot.seconds or idle else []),
            "systemctl daemon-reload && systemctl enable --now gridcloud-end.timer",
            _INCLUDE,
            _RELOAD,
            *boot.run,
            *([start] if start else []),
        ],
    }
    return "#cloud-config\n" + yaml.dump(document, Dumper=_Blocks, sort_keys=False, width=1000)


async def arm(connection: Connection, at: datetime) -> None:
    """Have the machine power itself off at ``at`` (UTC), at most half a minute late. Raises Transient, Rejected."""
    from gridcloud import connections

    seconds = min(LONGEST, max(1, math.ceil((at - datetime.now(UTC)).total_seconds())))
    words = ("sudo", "-n", ARM, str(seconds))
    done = await connections.run(connection, Command(words=words), timeout=20)
    if done.code:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        kind = Transient if done.code == 255 else Rejected
        raise kind(
            f"The machine could not be told when it ends: {said or f'exit code {done.code}'}.",
            remedy="Its image needs cloud-init and sudo.",
        )


# The same text ten times as fast where PyYAML was built with libyaml, as its wheels are.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Blocks(_Dumper):  # type: ignore[misc]
    """Writes texts of several lines as blocks, so that a person can read them."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _write_text)


def _steady(pem: str) -> str:
    """Return a private key in OpenSSH's form with its two check numbers (random, equal: PROTOCOL.key
    of OpenSSH, 3) set, so that the same key gives the same text."""
    first, *lines, last = pem.strip().splitlines()
    body = base64.b64decode("".join(lines))
    place = len(b"openssh-key-v1\0")
    for _ in ("cipher", "kdf", "kdf options"):
        place += 4 + int.from_bytes(body[place : place + 4])
    place += 4  # how many keys
    place += 4 + int.from_bytes(body[place : place + 4])  # the public key
    place += 4  # the length of the private part, which begins with the numbers
    body = body[:place] + b"gridgrid" + body[place + 8 :]
    text = base64.b64encode(body).decode()
    return "\n".join([first, *(text[start : start + 70] for start in range(0, len(text), 70)), last, ""])


_ARMING_ACCOUNT: dict[str, object] = {
    "name": ARM_USER,
    "gecos": "gridcloud",
    "shell": "/bin/sh",
    "lock_passwd": True,
}


def _arming_principals(boot: FirstBoot) -> dict[str, str]:
    return _file(f"{PRINCIPALS}/{ARM_USER}", arming_principal_of(boot.instance_id) + "\n")


def _account(boot: FirstBoot) -> dict[str, object]:
    account: dict[str, object] = {
        "name": boot.user,
        "gecos": "gridcloud",
        "shell": "/bin/bash",
        "lock_passwd": True,
    }
    if boot.sudo:
        account["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    return account


def _file(path: str, content: str, mode: str = "0644") -> dict[str, str]:
    return {"path": path, "content": content, "permissions": mode, "owner": "root:root"}
