"""What `gridcloud provider check` tells of a cluster under Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import gridcloud
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.drivers.slurm_login import Facts, Login
from gridcloud.drivers.slurm_words import build_error, parse_nodes, parse_partitions
from gridcloud.errors import GridcloudError
from gridcloud.instances.model import Finding

__all__ = ["check_cluster"]

REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close(); print('reached')"


async def check_cluster(login: Login, settings: SlurmSettings, command: Sequence[str]) -> list[Finding]:
    """Return what is in order and what is not; starts nothing."""
    login.forget()
    try:
        facts = await login.facts()
    except GridcloudError as error:
        remedy = error.remedy or "Can you log in there by hand, with this account and key?"
        return [_wrong(login.name, f"It cannot be used: {error.message}", remedy)]
    if not facts.slurm:
        return [_wrong(login.name, *facts.lacks)]
    findings = [_fine(login.name, f"Answers as {facts.user}: {facts.slurm}.")]
    try:
        findings += await _partitions(login, settings)
        findings.append(await _program(login, command))
        findings.append(await _way(login, settings))
    except GridcloudError as error:
        findings.append(_wrong(login.name, error.message, error.remedy or "Try again."))
    return [*findings, *_accounts(login, settings, facts)]


async def _partitions(login: Login, settings: SlurmSettings) -> list[Finding]:
    done = await login.run("scontrol", "--oneliner", "show", "partitions")
    nodes = await login.run("scontrol", "--oneliner", "show", "nodes")
    if done.code or nodes.code:
        raise build_error(done.complaint + nodes.complaint)
    known = {one.name: one for one in parse_partitions(done.said)}
    usable = [node for node in parse_nodes(nodes.said) if node.usable]
    findings = [
        _wrong(name, "There is no such partition.", f"There are {', '.join(sorted(known))}.")
        for name in settings.partitions
        if name not in known
    ]
    for name, partition in known.items():
        if settings.partitions and name not in settings.partitions:
            continue
        count = sum(name in node.partitions for node in usable)
        words = f"{count} nodes can be used" if partition.up else "takes no jobs now"
        findings.append(_fine(f"partition {name}", words))
    return findings


async def _program(login: Login, command: Sequence[str]) -> Finding:
    if not command:
        remedy = "Install gridcloud[agent] where the nodes find it, and set 'command' to its path there."
        return _wrong(login.name, "gridcloud is not found there.", remedy)
    done = await login.run(*command, "version", seconds=60)
    words = " ".join(command)
    if done.code:
        remedy = "Set 'command' to a gridcloud in a folder that login node and nodes share."
        return _wrong(login.name, f"{words} does not run: {done.complaint.strip()[-300:]}", remedy)
    said = done.said.strip().splitlines()
    version = said[0] if said else ""
    if gridcloud.__version__ not in version:
        return _wrong(
            login.name,
            f"{words} is {version[:60]}, and this is {gridcloud.__version__}.",
            "Install the same version there.",
        )
    return _fine(login.name, f"{words} is {version}.")


async def _way(login: Login, settings: SlurmSettings) -> Finding:
    parts = urlsplit(settings.proxy or settings.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    done = await login.run("python3", "-c", REACH, parts.hostname or "", str(port))
    where = f"{parts.hostname}:{port}"
    if "reached" in done.said:
        return _fine(login.name, f"{where} is reached from there; whether from the nodes, a job shows.")
    if "Error" not in done.complaint:
        return Finding(
            subject=login.name,
            ok=True,
            known=False,
            message=f"Whether {where} is reached from there cannot be seen: it has no python3.",
        )
    remedy = "Set 'url' to an address that the cluster reaches (service.host opens the door), or 'proxy'."
    return _wrong(login.name, f"{where} is not reached from there.", remedy)


def _accounts(login: Login, settings: SlurmSettings, facts: Facts) -> list[Finding]:
    if facts.root and not settings.allow_root:
        return [_wrong(login.name, "The account is root.", "Log in as an ordinary user, or set allow_root.")]
    if settings.share_account:
        message = f"All jobs run as {facts.user}: people can read each other's files there (share_account)."
        return [_fine(login.name, message)]
    whom = ", ".join(sorted({facts.user, *settings.users}))
    return [_fine(login.name, f"Jobs run as {facts.user}, and are for {whom}.")]


def _fine(subject: str, message: str) -> Finding:
    return Finding(subject=subject, ok=True, message=message)


def _wrong(subject: str, message: str, remedy: str) -> Finding:
    return Finding(subject=subject, ok=False, message=message, remedy=remedy)
