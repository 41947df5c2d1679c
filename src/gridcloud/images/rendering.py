"""Render one definition as what builds a container, and as what a machine of a cloud is told at its first boot.

Both hold the same files and run the same steps of ``setup/install.sh``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gridcloud.images.model import Lock, Role, digest_of
from gridcloud.images.reading import Image, Stack

__all__ = [
    "EPOCH",
    "PATH",
    "SESSION",
    "build_files",
    "cloud_config",
    "containerfile",
    "debian_lock",
    "requirements_lock",
]

SESSION = "/opt/gridcloud-session"
"""Where the session's environment lies in every image."""

PATH = f"{SESSION}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

EPOCH = 1735689600
"""The time of all files, in seconds since 1970 (2025-01-01): the same packages give the same image."""

ON_MACHINES = "/var/lib/gridcloud-image"
"""Where a machine of a cloud keeps what it is set up from."""

LABELS = "org.gridcloud.image"
VENDOR = "org.opencontainers.image"
"""The annotations of the OCI image specification, 1.1."""

_SETUP = Path(__file__).with_name("setup")


def containerfile(stack: Stack, image: Image, lock: Lock) -> str:
    """Return the text that `podman build` reads, of the folder that holds `build_files`.

    Its argument ``BASE`` is the image below, by digest: no registry is named. ``APT_MIRROR`` and ``PIP_INDEX_URL`` may
    name mirrors.
    """
    definition = image.definition
    mount = "--mount=type=bind,source=.,target=/mnt"
    is_session = definition.role is Role.SESSION
    variables = {"PATH": PATH, "LANG": "C.UTF-8"} if not definition.parent else {}
    lines = [
        f"# Rendered from images/{image.name}/image.yaml by `gridcloud image render`.",
        "ARG BASE",
        "FROM ${BASE}",
        'ARG APT_MIRROR=""',
        'ARG PIP_INDEX_URL=""',
        f"ARG SOURCE_DATE_EPOCH={EPOCH}",
        *(f"ENV {name}={_quoted(value)}" for name, value in (variables | definition.environment).items()),
        "USER 0:0",
        *([f"RUN {mount} sh /mnt/install.sh debian"] if definition.debian else []),
        *([f"RUN {mount} sh /mnt/install.sh python finish"] if is_session else []),
        *(f"LABEL {name}={_quoted(value)}" for name, value in _labels(stack, image, lock).items()),
    ]
    if is_session:
        lines += [
            "USER 1000:1000",
            f"RUN {mount} sh /mnt/install.sh check",
            "WORKDIR /home/user",
            'CMD ["jupyterhub-singleuser"]',
        ]
    return "\n".join(lines) + "\n"


def build_files(image: Image, lock: Lock | None) -> dict[str, str]:
    """Return by name the files that lie beside the Containerfile, or in the folder of a machine.

    Without a lock of Debian's packages (``None``) those of the machine's own sources are installed.
    """
    definition = image.definition
    files = {name: (_SETUP / name).read_text(encoding="utf-8") for name in ("install.sh", "kernel-startup")}
    files["contents.py"] = Path(__file__).with_name("contents.py").read_text(encoding="utf-8")
    if definition.debian:
        files["debian.names"] = "\n".join(definition.debian) + "\n"
        if lock is not None:
            files["debian.lock"] = debian_lock(lock)
    if lock is not None and lock.python:
        files["requirements.txt"] = requirements_lock(lock.python)
    extra = {"finish.sh": definition.finish, "caches.py": definition.caches, "check.py": definition.check}
    return files | {name: text for name, text in extra.items() if text}


def debian_lock(lock: Lock) -> str:
    """Return the lines that ``install.sh`` compares with: ``NAME=VERSION SHA256``."""
    return "".join(f"{name} {total}\n" for name, total in lock.debian.items())


def requirements_lock(python: Mapping[str, str]) -> str:
    """Return a ``requirements.txt`` whose every file has its checksum."""
    return "".join(f"{name} --hash=sha256:{total}\n" for name, total in python.items())


def cloud_config(stack: Stack, name: str, architecture: str) -> str:
    """Return what cloud-init is told to make a machine of a plain Debian image that is like the container.

    Python's packages are those of the lock; Debian's come from the machine's own sources, whose versions its image
    decides. Raises NotFound where there is no lock.
    """
    files: list[dict[str, Any]] = []
    commands: list[list[str]] = []
    for image in stack.chain(name):
        folder = f"{ON_MACHINES}/{image.name}"
        lock = image.lock(architecture)
        given = {file: text for file, text in build_files(image, lock).items() if file != "debian.lock"}
        files += [
            {"path": f"{folder}/{file}", "permissions": "0644", "content": text}
            for file, text in given.items()
        ]
        settings = [f"{key}={value}" for key, value in image.definition.environment.items()]
        commands.append(
            ["env", *settings, "sh", f"{folder}/install.sh", "debian", "python", "finish", "check"]
        )
    path = {"path": "/etc/environment", "content": f"PATH={PATH}\n{_environment(stack.chain(name))}"}
    text = yaml.dump(
        {"write_files": [*files, path], "runcmd": commands}, Dumper=_Dumper, sort_keys=False, width=110
    )
    return f"#cloud-config\n# Rendered from images/{name}/image.yaml by `gridcloud image render`.\n{text}"


def _environment(chain: Iterable[Image]) -> str:
    given: dict[str, str] = {}
    for image in chain:
        given |= image.definition.environment
    return "".join(f"{name}={value}\n" for name, value in given.items())


def _labels(stack: Stack, image: Image, lock: Lock) -> dict[str, str]:
    """Return the annotations, but those that only who builds knows."""
    definition = image.definition
    told = {
        f"{VENDOR}.title": f"gridcloud {image.name}: {definition.title}",
        f"{VENDOR}.description": definition.description,
        f"{VENDOR}.version": lock.of[:12],
        f"{LABELS}.name": image.name,
        f"{LABELS}.jupyterhub": next(
            (
                one
                for one in (each.lock(lock.architecture).jupyterhub for each in stack.chain(image.name))
                if one
            ),
            "",
        ),
        f"{LABELS}.contents": f"{SESSION}/share/gridcloud/contents.cdx.json",
        f"{LABELS}.digest": digest_of(
            *(f"{name}\n{text}" for name, text in sorted(build_files(image, lock).items()))
        ),
    }
    if definition.gpu:
        told[f"{LABELS}.gpu"] = "true"
    return {name: value for name, value in told.items() if value}


def _quoted(value: str) -> str:
    """Return a value as the Containerfile's own parser takes it, nothing in it replaced."""
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
