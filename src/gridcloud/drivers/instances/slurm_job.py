"""The job of an instance: its names, its folder, and the script that Slurm runs on a node."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridcloud.drivers.slurm_words import Job

__all__ = ["ID", "Names", "render_script", "submit_words"]

ID = re.compile(r"[a-z0-9][a-z0-9-]{2,40}")
"""What an instance's id is: safe as a name of a file and of a job."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is ours on a cluster. ``base``: the provider's folder that its nodes share."""

    installation: str
    provider: str
    base: str

    @property
    def comment(self) -> str:
        """The owner tag of a job."""
        return f"gridcloud:{self.installation}:{self.provider}"

    @property
    def place(self) -> str:
        """Where the folders of instances lie."""
        return f"{self.base}/{self.installation}/{self.provider}/instances"

    def folder(self, instance_id: str) -> str:
        """The folder of an instance."""
        return f"{self.place}/{instance_id}"

    def home(self, owner: str) -> str:
        """Where the files of an owner lie who has no account there; the owner's name is anybody's text."""
        digest = hashlib.sha256(owner.encode(errors="replace")).hexdigest()[:16]
        return f"{self.base}/{self.installation}/homes/{digest}"

    @staticmethod
    def job(instance_id: str) -> str:
        """The name of an instance's job."""
        return f"gridcloud-{instance_id}"

    def owner_of(self, job: Job) -> str:
        """Return the instance that a job was made for; empty for one that is not ours."""
        instance_id = job.name.removeprefix("gridcloud-")
        if instance_id == job.name or not ID.fullmatch(instance_id):
            return ""
        # Some sites write their own comments: the folder says the same.
        ours = job.comment == self.comment or job.folder == self.folder(instance_id)
        return instance_id if ours else ""


def submit_words(names: Names, instance_id: str, resources: Sequence[str]) -> tuple[str, ...]:
    """Return the command that submits a job; its script comes by standard input."""
    folder = names.folder(instance_id)
    return (
        "sbatch",
        "--parsable",
        f"--job-name={names.job(instance_id)}",
        f"--comment={names.comment}",
        # Were two submitted for one instance, only the first would start.
        "--dependency=singleton",
        # Nothing of our own environment; the account's own is read on the node.
        "--export=NONE",
        f"--chdir={folder}",
        f"--output={folder}/log",
        "--open-mode=append",
        *resources,
    )


def render_script(
    command: Sequence[str],
    url: str,
    folder: str,
    *,
    home: str,
    authorities: bool = False,
    proxy: str = "",
    root: bool = False,
    environment: Mapping[str, str] | None = None,
    before: str = "",
) -> str:
    """Return the script of a job: it is the instance's agent. It holds nothing secret, for Slurm keeps and shows it."""
    words = [
        *command,
        "agent",
        "bootstrap",
        url,
        "--token-file",
        f"{folder}/token",
        "--state",
        f"{folder}/state",
    ]
    words += ["--home", home] if home else []
    words += ["--ca", f"{folder}/ca.pem"] if authorities else []
    words += ["--proxy", proxy] if proxy else []
    words += ["--as-root"] if root else []
    lines = ["#!/bin/sh", "# An instance of gridcloud: when this job ends, it ends.", "umask 077"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted((environment or {}).items())]
    lines += [before.rstrip()] if before.strip() else []
    # In its place, so that it hears that the job is to end.
    lines.append(f"exec {shlex.join(words)}")
    return "\n".join(lines) + "\n"
