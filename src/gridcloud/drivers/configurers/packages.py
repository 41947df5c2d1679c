"""Configure a machine with packages: Debian's, Python's, conda's."""

from __future__ import annotations

import asyncio
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import Field, field_validator, model_validator

from gridcloud.configurers.commands import run, run_as_root
from gridcloud.configurers.driver import Configurer, ConfigurerSettings, Report, local_path
from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import ConfigurationFailed, InvalidSettings

__all__ = ["PackagesConfigurer", "PackagesSettings"]

_BUILD = Path(__file__).with_name("packages_build.py")
# Debian policy 5.6.1, an architecture, a version. No option, no file, no trailing minus, which would mean removal.
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
_INCLUDED = re.compile(r"^(\s*(?:-r|--requirement|-c|--constraint)(?:\s+|=))(\S+)", re.MULTILINE)
_SCHEMES = ("https://", "git+https://")


class PackagesSettings(ConfigurerSettings):
    """Packages that the machine gets. What is there already is left as it is."""

    apt: tuple[str, ...] = Field(default=(), description="Debian packages; needs root or sudo on the machine")
    requirements: tuple[str, ...] | Path | None = Field(
        default=None, description="Python packages: a list of requirements, or a requirements.txt"
    )
    environment: dict[str, Any] | Path | None = Field(
        default=None,
        description="a conda environment.yml, or what one holds; needs micromamba, mamba or conda there",
    )
    session: bool = Field(default=False, description="also what a Jupyter session needs, where it is missing")
    system_site_packages: bool = Field(
        default=False, description="let the environment see the packages of the machine's own Python"
    )
    overlay: bool = Field(
        default=False,
        description="put the requirements on top of the session's own packages, for its kernels; needs a session there",
    )
    python: str = Field(
        default="python3", min_length=1, description="the machine's Python: a name or absolute path"
    )

    @field_validator("apt")
    @classmethod
    def _debian_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _DEBIAN.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is no name of a Debian package")
        return names

    @field_validator("requirements")
    @classmethod
    def _plain_requirements(cls, given: tuple[str, ...] | Path | None) -> tuple[str, ...] | Path | None:
        return tuple(map(_plain, given)) if isinstance(given, tuple) else given

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.apt or self.requirements or self.environment or self.session):
            raise ValueError("name packages: `apt`, `requirements`, `environment` or `session`")
        if self.overlay and (self.environment or self.session or self.system_site_packages):
            raise ValueError("an overlay is of `requirements` alone")
        if self.python.startswith("-") or "\0" in self.python:
            raise ValueError(f"{self.python!r} is no program")
        return self


class PackagesConfigurer(Configurer):
    """Installs packages, each environment once for each account of a machine."""

    Settings = PackagesSettings
    settings: PackagesSettings

    async def check(self) -> None:
        await asyncio.to_thread(self._order)

    async def configure(self, connection: Connection, facts: Facts, report: Report) -> None:
        order = await asyncio.to_thread(self._order)
        if self.settings.apt:
            await _install_debian(connection, self.settings.apt, report)
        if order["requirements"] or order["conda"] or order["session"]:
            await self._build(connection, order, report)

    async def _build(self, connection: Connection, order: dict[str, Any], report: Report) -> None:
        # -u: what is said comes as it is said. The order goes over standard input: addresses in it may hold passwords.
        words = (self.settings.python, "-u", "-c", _BUILD.read_text(encoding="utf-8"))
        outcome = await run(connection, Command(words=words), report, input=json.dumps(order).encode())
        if outcome.code == 127:
            raise ConfigurationFailed(
                f"There is no {self.settings.python!r} on the machine.",
                remedy="Name its Python in `python`, or add `apt: [python3, python3-venv]`.",
            )
        if outcome.code != 0:
            raise ConfigurationFailed(f"The packages could not be installed: {outcome.last_words}")

    def _order(self) -> dict[str, Any]:
        """Return what `packages_build` reads. Raises InvalidSettings for files that are missing or cannot be read."""
        settings = self.settings
        files: dict[str, str] = {}
        requirements = conda = ""
        if isinstance(settings.requirements, tuple):
            requirements = "requirements.txt" if settings.requirements else ""
            files["requirements.txt"] = "".join(f"{line}\n" for line in settings.requirements)
        elif settings.requirements is not None:
            path = local_path(self.folder, settings.requirements, "file of requirements")
            requirements = _collect(path, files, {})
        if settings.environment:
            conda = "environment.yml"
            files[conda] = self._conda()
        return {
            "requirements": requirements,
            "conda": conda,
            "files": files,
            "session": metadata.version("jupyterhub") if settings.session else "",
            "system_site_packages": settings.system_site_packages,
            "overlay": settings.overlay,
        }

    def _conda(self) -> str:
        given = self.settings.environment
        text = yaml.safe_dump(given) if isinstance(given, dict) else ""
        what = "environment of the request"
        if isinstance(given, Path):
            path = local_path(self.folder, given, "environment.yml")
            text, what = _read(path), f"file {str(path)!r}"
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidSettings(f"The {what} cannot be read: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("dependencies"), list):
            raise InvalidSettings(f"The {what} is no conda environment: it has no list `dependencies`.")
        return text


def _plain(text: str) -> str:
    """Return one requirement as pip reads it. Options and local files are for requirement files alone."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise ValueError(
            f"{text[:80]!r} is no requirement such as 'numpy>=1.26'; options stand in a requirements.txt only"
        ) from None
    if requirement.url and not requirement.url.startswith(_SCHEMES):
        raise ValueError(f"{text[:80]!r}: packages come by https only")
    if not text.isprintable():
        raise ValueError(f"{text[:80]!r} holds characters that nobody sees")
    return str(requirement)


def _collect(path: Path, files: dict[str, str], seen: dict[Path, str]) -> str:
    """Put a requirements file, and those it includes, into ``files``; return the name it has there."""
    path = path.resolve()
    if path in seen:
        return seen[path]
    name = seen[path] = f"requirements-{len(seen)}.txt"

    def include(found: re.Match[str]) -> str:
        if found[2].startswith(("https://", "http://")):
            return found[0]
        return found[1] + _collect(
            local_path(path.parent, Path(found[2]), "file of requirements"), files, seen
        )

    files[name] = _INCLUDED.sub(include, _read(path))
    return name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{str(path)!r} cannot be read: {error}") from None


# Prints the packages among its arguments that are not installed; one with a version always counts as missing.
_MISSING = r"""
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 127
for name; do
    case $name in
        *=*) echo "$name";;
        *) [ "$(dpkg-query -W -f '${db:Status-Status}' -- "$name" 2>/dev/null)" = installed ] || echo "$name";;
    esac
done
"""

# Another program may hold apt's locks, for instance the machine's own updates after its start: they are waited for.
_INSTALL = r"""
heard=$(mktemp) || exit 1
trap 'rm -f "$heard"' EXIT
tries=0
until apt-get -q -o DPkg::Lock::Timeout=600 update 2>"$heard"; do
    cat "$heard" >&2
    grep -q "lock" "$heard" || break  # lists that cannot be had now: those that are there may do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || exit 100
    echo "waiting for another program that works on packages"
    sleep 5
done
apt-get -q -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confold install -- "$@"
"""


async def _install_debian(connection: Connection, names: tuple[str, ...], report: Report) -> None:
    missing: list[str] = []
    command = Command(words=("/bin/sh", "-c", _MISSING, "gridcloud", *names), environment={"LC_ALL": "C"})
    outcome = await run(connection, command, missing.append)
    if outcome.code != 0:
        raise ConfigurationFailed("`apt` needs Debian or Ubuntu on the machine: it has no apt-get.")
    missing = [name for name in names if name in missing]
    if not missing:
        report("the Debian packages are there already")
        return
    report(f"installing {' '.join(missing)}")
    command = Command(
        words=("/bin/sh", "-c", _INSTALL, "gridcloud", *missing),
        environment={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "NEEDRESTART_SUSPEND": "1"},
    )
    outcome = await run_as_root(connection, command, report)
    if outcome.code != 0:
        raise ConfigurationFailed(f"apt-get ended with {outcome.code}: {outcome.last_words}")
