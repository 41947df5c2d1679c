"""What an image is: its definition, as ``image.yaml`` says it, and the lock of all that it holds."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Self

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Definition", "Lock", "Role", "digest_of"]

NAME = r"^[a-z][a-z0-9-]{0,40}$"
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:~-]*==?[A-Za-z0-9][A-Za-z0-9.+:~!_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _sums(given: dict[str, str]) -> dict[str, str]:
    for name, total in given.items():
        if not _PINNED.fullmatch(name) or not _SHA256.fullmatch(total):
            raise ValueError(f"{name[:80]!r} is no package with its version and SHA-256")
    return given


Sums = Annotated[dict[str, str], AfterValidator(_sums)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Role(StrEnum):
    """What a definition is for."""

    SESSION = "session"
    """An image that sessions run in."""
    MACHINE = "machine"
    """What is put on top of such an image to boot it as a machine."""


class Definition(_Part):
    """One image, as ``images/NAME/image.yaml`` says it: the source of the container and of the machine alike."""

    title: str = Field(min_length=1, max_length=100, description="what people read")
    description: str = Field(default="", max_length=500, description="what is in it, in a sentence or two")
    role: Role = Field(default=Role.SESSION, description="session, or machine: what makes one of an image")
    parent: str = Field(default="", description="the image below it; none: a Debian root file system")
    release: str = Field(
        default="", pattern=r"^[a-z]*$", description="Debian's release; for an image without a parent"
    )
    python_version: str = Field(
        default="", pattern=r"^(3\.\d+)?$", description="that release's Python; for an image without a parent"
    )
    debian: tuple[str, ...] = Field(default=(), description="Debian's packages, beside those of the parent")
    python: tuple[str, ...] = Field(default=(), description="Python packages, beside those of the parent")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables")
    finish: str = Field(default="", description="commands of a shell that root runs once all is installed")
    caches: str = Field(
        default="", description="a Python program; what it leaves in its cache folder is given to users"
    )
    check: str = Field(
        default="", description="a Python program that has to succeed as the session's account"
    )
    gpu: bool = Field(default=False, description="whether it makes use of GPUs")

    @field_validator("debian")
    @classmethod
    def _debian_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _DEBIAN.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is no name of a Debian package")
        return _sorted(names)

    @field_validator("python")
    @classmethod
    def _requirements(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            try:
                plain = not Requirement(line).url and line.isprintable()
            except InvalidRequirement:
                plain = False
            if not plain:
                raise ValueError(f"{line[:80]!r} is no requirement such as 'numpy>=1.26'")
        return lines

    @field_validator("environment")
    @classmethod
    def _variables(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            if not _VARIABLE.fullmatch(name) or not value.isprintable():
                raise ValueError(f"{name[:80]!r} is no environment variable with a plain value")
        return given

    @model_validator(mode="after")
    def _has_a_base(self) -> Self:
        if self.parent:
            if not re.fullmatch(NAME, self.parent):
                raise ValueError(f"{self.parent[:80]!r} is no name of an image")
            if self.release or self.python_version:
                raise ValueError("release and python_version are those of the parent: leave them out")
        elif not (self.release and self.python_version):
            raise ValueError("name a parent, or release and python_version")
        return self


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    if list(names) != sorted(set(names)):
        raise ValueError("write each once, and in the order of the alphabet")
    return names


class Lock(_Part):
    """Everything that an image adds to its parent, with versions and checksums, for one architecture."""

    of: str = Field(description="digest of what was locked: it changes with the definition's packages")
    architecture: str = Field(pattern=r"^[a-z0-9]+$", description="as Debian names it: amd64, arm64")
    jupyterhub: str = Field(default="", description="version of JupyterHub within")
    debian: Sums = Field(default_factory=dict, description="SHA-256 of the file, by NAME=VERSION")
    python: Sums = Field(default_factory=dict, description="SHA-256 of the wheel, by NAME==VERSION")


def digest_of(*texts: str) -> str:
    """Return the SHA-256 of some texts, kept apart, as 64 hexadecimal digits."""
    told = hashlib.sha256()
    for text in texts:
        told.update(f"{len(text.encode())}:".encode() + text.encode())
    return told.hexdigest()
