"""What `gridcloud provider check` tells about one host of the `ssh` provider."""

from __future__ import annotations

from typing import Literal

from gridcloud.drivers.instances.ssh_host import Facts, Host, Survey
from gridcloud.errors import Forbidden, GridcloudError, Unreachable, Untrusted
from gridcloud.instances.known_hosts import fingerprint
from gridcloud.instances.matching import count_cpus
from gridcloud.instances.model import Finding, format_size

__all__ = ["check_host"]

LITTLE_DISK = 1024**3


async def check_host(host: Host, accounts: Literal["auto", "per-owner", "login"]) -> list[Finding]:
    """Return what is in order on a host and what is not; asks the host itself, whatever is cached."""
    host.forget()
    if not host.address.host_keys and not host.address.host_authorities:
        return [await _unpinned(host)]
    try:
        await host.connect()
        facts = await host.facts()
        survey = await host.survey()
    except Untrusted as error:
        return [await _mistrusted(host, error)]
    except Forbidden as error:
        remedy = f"Add gridcloud's public key to ~/.ssh/authorized_keys of {host.address.user} there."
        return [_wrong(host, f"The login as {host.address.user} is refused: {error}", remedy)]
    except Unreachable as error:
        remedy = "Is the machine on, and may its SSH port be reached from here (or through its jump host)?"
        return [_wrong(host, f"It does not answer: {error}", remedy)]
    except GridcloudError as error:
        by_hand = f"Log in by hand: ssh {host.address.user}@{host.address.host}"
        return [_wrong(host, error.message, error.remedy or by_hand)]
    trusted = "its host key is the pinned one" if host.address.host_keys else "its host certificate is ours"
    answers = f"Answers as {facts.user}, and {trusted} ({facts.kernel})."
    return [
        _fine(host, answers),
        _account(host, facts, accounts),
        _room(host, facts, survey),
        _programs(host, facts),
    ]


async def _unpinned(host: Host) -> Finding:
    try:
        key = await host.seen_key()
    except GridcloudError as error:
        return _wrong(
            host, f"No host key is pinned, and it does not answer: {error}", "Pin its key with host_keys."
        )
    return _wrong(
        host,
        f"No host key is pinned, so nothing is sent to it. It shows {key.split()[0]} {fingerprint(key)}.",
        "Compare this on the machine itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); if it is the same, "
        f'add to its entry: host_keys: ["{key}"]',
    )


async def _mistrusted(host: Host, error: Untrusted) -> Finding:
    try:
        key = await host.seen_key()
        shown = f" It shows {key.split()[0]} {fingerprint(key)}."
    except GridcloudError:
        shown = ""
    pinned = (
        ", ".join(fingerprint(key) for key in host.address.host_keys) or "a certificate of a host authority"
    )
    return _wrong(
        host,
        f"It is not the machine that is pinned ({pinned}), or somebody stands in between.{shown} {error.message}",
        "Nothing is sent to it. If it was installed anew, compare the key on its console and change host_keys.",
    )


def _account(host: Host, facts: Facts, accounts: str) -> Finding:
    if accounts == "login":
        return _fine(host, f"Everything runs as {facts.user}; it serves one owner at a time.")
    if facts.may_make_accounts:
        return _fine(host, f"Every owner has an account ({'root' if facts.root else 'by sudo'}).")
    missing = sorted({"useradd", "userdel", "su"} - facts.programs)
    why = (
        f"{', '.join(missing)} missing"
        if facts.root or facts.sudo
        else "neither root nor sudo without a password"
    )
    if accounts == "per-owner":
        return _wrong(
            host, f"No accounts can be made: {why}.", "Log in as root, allow sudo, or set 'accounts: login'."
        )
    return _fine(host, f"No accounts can be made ({why}): it serves one owner at a time.")


def _room(host: Host, facts: Facts, survey: Survey) -> Finding:
    taken = len(survey.live())
    has = f"{count_cpus(facts.cpus)}, {format_size(facts.memory)}"
    if facts.gpus:
        has += f", {len(facts.gpus)} GPUs ({', '.join(sorted({gpu.model for gpu in facts.gpus}))})"
    disk = f"{format_size(survey.disk_free)} free in {survey.directory}"
    if survey.disk_free < LITTLE_DISK:
        return _wrong(host, f"Only {disk}.", "Make room, or set 'directory' to a folder with more.")
    return _fine(host, f"{has}, {disk}; {taken} instances are on it.")


def _programs(host: Host, facts: Facts) -> Finding:
    there = [name for name in ("python3", "jupyterhub-singleuser") if name in facts.programs]
    lacking = [name for name in ("python3", "jupyterhub-singleuser") if name not in facts.programs]
    message = f"Has {' and '.join(there)}." if there else ""
    if lacking:
        message += f" Has no {' and no '.join(lacking)}: sessions need it, or a configurer that installs it."
    return _fine(host, message.strip())


def _fine(host: Host, message: str) -> Finding:
    return Finding(subject=host.name, ok=True, message=message)


def _wrong(host: Host, message: str, remedy: str) -> Finding:
    return Finding(subject=host.name, ok=False, message=message, remedy=remedy)
