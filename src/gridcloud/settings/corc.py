"""Read the configuration of corc, the research prototype (https://github.com/rasmunk/corc), into provider entries.

Its YAML has the sections ``configurers``, ``job``, ``providers`` and ``storage`` under ``corc``; ``providers`` knows
``oci`` and ``ec2`` (also written ``aws``). Every key that it knew is recognised: it becomes a setting, or the notes say
why it is not needed. An unknown key is an error that names it.
"""

from __future__ import annotations

import configparser
import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gridcloud.errors import InvalidSettings

__all__ = ["Imported", "Note", "import_corc", "is_corc"]

SECTIONS = ("configurers", "job", "providers", "storage")
CERTIFICATES = "not needed: machines let in certificates of gridcloud's own authority"
OWN_NETWORK = "not needed: gridcloud makes the network it needs, and removes it with the last machine"
CLUSTER = "not imported: clusters are made by 'gridcloud cluster start'"


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one key."""

    key: str
    became: str


@dataclass(slots=True)
class Imported:
    """Provider entries by name, and what became of each key that had a value."""

    providers: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def is_corc(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is a configuration of corc."""
    return isinstance(document.get("corc"), Mapping)


def import_corc(document: Mapping[str, Any], home: Path | None = None) -> Imported:
    """Return what a configuration of corc means here. ``home`` is where ``~`` is: the user's own when not given.

    Raises InvalidSettings that names an unknown key and the nearest known one.
    """
    corc = document["corc"]
    inner = {**corc, **{key: value for key, value in document.items() if key != "corc"}}
    imported = Imported()
    _refuse_unknown("corc", inner, SECTIONS)
    providers = _mapping("corc.providers", inner.get("providers"))
    _refuse_unknown("corc.providers", providers, ("aws", "ec2", "oci"))
    for section, known in _PLAIN.items():
        _note_plain(imported, f"corc.{section}", _mapping(f"corc.{section}", inner.get(section)), known)
    for name, entry in providers.items():
        place = f"corc.providers.{name}"
        values = dict(_flatten(place, _mapping(place, entry)))
        if values:
            keys, driver = (_OCI, "oci") if name == "oci" else (_EC2, "ec2")
            imported.providers[name] = {"driver": driver, **_translate(imported, place, values, keys)}
            _complete(imported, name, imported.providers[name], values, home or Path.home())
        else:
            imported.notes.append(Note(place, "empty: no provider"))
    return imported


_PLAIN: dict[str, Mapping[str, str]] = {
    "configurers": {"ANSIBLE": "always there: name a playbook with --configure FILE"},
    "job": dict.fromkeys(
        ("capture", "meta", "output_path", "working_dir", "commands", "command"),
        "not imported: a job is named where it is started",
    ),
    "storage": dict.fromkeys(
        (
            "credentials_path",
            "download_path",
            "enable",
            "endpoint",
            "input_path",
            "output_path",
            "s3",
            "upload_path",
        ),
        "not imported: data is named where it is used",
    ),
}

_EC2: Mapping[str, str] = {
    "instance.image": "image",
    "instance.size": "shapes",
    "instance.name": "!not needed: machines are named after their ids",
    "instance.ssh_authorized_key": f"!{CERTIFICATES}",
    "profile.name": "profile",
    "profile.config_file": "!read where Amazon's own tools look for it: AWS_CONFIG_FILE, else ~/.aws/config",
    "profile.credentials_file": "!read where Amazon's own tools look for it: ~/.aws/credentials",
}
"""Key to setting; what begins with ``!`` is a note."""

_OCI: Mapping[str, str] = {
    "profile.name": "profile",
    "profile.compartment_id": "compartment",
    "profile.config_file": "config_file",
    "instance.availability_domain": "availability_domains",
    "instance.operating_system": "image",
    "instance.operating_system_version": "!part of the image's name",
    "instance.shape": "shapes",
    "instance.name": "!not needed: machines are named after their ids",
    "instance.ssh_authorized_keys": f"!{CERTIFICATES}",
    "vcn.id": "!the subnet is what counts",
    "vcn.cidr_block": "address_range",
    "vcn.display_name": f"!{OWN_NETWORK}",
    "vcn.dns_label": f"!{OWN_NETWORK}",
    "vcn.subnet.id": "network",
    **{
        f"vcn.{key}": f"!{OWN_NETWORK}"
        for key in (
            "subnet.cidr_block", "subnet.display_name", "subnet.dns_label", "internetgateway.display_name",
            "internetgateway.id", "internetgateway.is_enabled", "routetable.display_name", "routetable.id",
            "routetable.routerules",
        )
    },
    **{
        f"cluster.{key}": f"!{CLUSTER}"
        for key in (
            "domain", "image", "kubernetes_version", "name", "node.availability_domain", "node.id", "node.image",
            "node.name", "node.node_shape", "node.size",
        )
    },
}  # fmt: skip


def _translate(
    imported: Imported, place: str, values: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for key, value in values.items():
        if key not in keys:
            raise _unknown(f"{place}.{key}", keys, place)
        if value in ("", None, [], {}):
            continue
        setting = keys[key]
        if setting.startswith("!"):
            imported.notes.append(Note(f"{place}.{key}", setting[1:]))
            continue
        make: Callable[[Any], Any] = list if isinstance(value, list) else lambda one: one
        entry[setting] = [value] if setting in ("shapes", "availability_domains") else make(value)
        imported.notes.append(Note(f"{place}.{key}", f"{setting}: {entry[setting]}"))
    return entry


def _complete(
    imported: Imported, name: str, entry: dict[str, Any], values: Mapping[str, Any], home: Path
) -> None:
    """Fill in what one of our drivers needs and the prototype kept elsewhere, or in two keys."""
    if entry["driver"] == "oci":
        system, version = (
            values.get("instance.operating_system"),
            values.get("instance.operating_system_version"),
        )
        if system:
            # Platform images are named like Oracle-Linux-7.9-2020.11.10-1.
            entry["image"] = "-".join(str(system).split()) + f"-{version or ''}*"
            imported.notes.append(Note(f"corc.providers.{name}.instance", f"image: {entry['image']}"))
        if "address_range" in entry:
            entry["address_range"] = _whole_range(str(entry["address_range"]))
        return
    file = Path(str(values.get("profile.config_file") or "~/.aws/config").replace("~", str(home), 1))
    if region := os.environ.get("AWS_DEFAULT_REGION") or _region(file, str(entry.get("profile", "default"))):
        entry["region"] = region
        imported.notes.append(Note(f"corc.providers.{name}.profile", f"region: {region} (from {file})"))


def _region(file: Path, profile: str) -> str:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return ""
    section = "default" if profile == "default" else f"profile {profile}"
    return parser.get(section, "region", fallback="")


def _whole_range(text: str) -> str:
    """Return 10.0.0.0/16 for the prototype's 10.0.0/16."""
    address, slash, bits = text.partition("/")
    parts = address.split(".")
    return ".".join([*parts, *["0"] * (4 - len(parts))]) + slash + bits


def _note_plain(imported: Imported, place: str, section: Mapping[str, Any], known: Mapping[str, str]) -> None:
    _refuse_unknown(place, section, tuple(known))
    imported.notes.extend(
        Note(f"{place}.{key}", known[key]) for key, value in section.items() if value not in ("", None)
    )


def _flatten(place: str, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(place, value, f"{prefix}{key}.")
        else:
            # Some printed copies have a space where the key has an underscore.
            yield f"{prefix}{key}".replace(" ", "_"), value


def _mapping(place: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"{place} has to hold keys.", remedy="See a configuration that corc wrote.")
    return value


def _refuse_unknown(place: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            raise _unknown(f"{place}.{key}", dict.fromkeys(known, ""), place)


def _unknown(place: str, known: Mapping[str, str], above: str) -> InvalidSettings:
    near = difflib.get_close_matches(place.removeprefix(f"{above}."), known, 1)
    hint = f"The nearest is {above}.{near[0]}." if near else f"Known are: {', '.join(known)}."
    return InvalidSettings(f"{place} is no key of corc's configuration.", remedy=hint)
