"""What the drivers of OpenStack's machines and of its clusters have in common: whom they ask, and what its library says
when that fails before any service was heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openstack.exceptions
from keystoneauth1 import exceptions as keystone
from openstack.config.loader import OpenStackConfig

from gridcloud.errors import GridcloudError, InvalidSettings, TimedOut, Unreachable, Untrusted

__all__ = ["CREDENTIALS", "PATIENCE", "another_project", "read_cloud", "status_of", "translate_kind"]

PATIENCE = 20
"""Seconds that one answer may take."""

CREDENTIALS = (
    "Look at the cloud's entry in clouds.yaml, and whether the application credential is still there and not expired: "
    "'openstack --os-cloud NAME token issue' (pip install python-openstackclient) tries it."
)
"""What to do when a cloud does not know who is asking."""


def read_cloud(label: str, cloud: str, clouds_file: Path | None, region: str) -> Any:
    """Return the library's own view of a cloud of clouds.yaml, to connect with.

    Raises InvalidSettings where the file named is not there, and what the library raises for what is in it.
    """
    if clouds_file and not clouds_file.expanduser().is_file():
        raise InvalidSettings(
            f"{label}: there is no file {clouds_file}.", remedy="Set 'clouds_file' to the clouds.yaml."
        )
    files = [str(clouds_file.expanduser())] if clouds_file else None
    words: dict[str, Any] = {"cloud": cloud, "api_timeout": PATIENCE, "app_name": "gridcloud"}
    if region:
        words["region_name"] = region
    known = OpenStackConfig(config_files=files, app_name="gridcloud")
    there = sorted(known.get_cloud_names())
    if cloud not in there:
        raise _unknown_cloud(label, cloud, [one for one in there if one != "defaults"], known.config_filename)
    return known.get_one(**words)


def _unknown_cloud(label: str, cloud: str, there: list[str], file: str | None) -> InvalidSettings:
    if cloud == "envvars":
        return InvalidSettings(
            f"{label}: the environment that gridcloud runs in has no OS_… variables.",
            remedy="Start gridcloud where they are set, or set 'cloud' to a name in clouds.yaml.",
        )
    if not file:
        return InvalidSettings(
            f"{label}: there is no clouds.yaml in {Path.cwd()}, ~/.config/openstack or /etc/openstack.",
            remedy="Put it into ~/.config/openstack (Horizon gives one under API access), or set 'clouds_file'.",
        )
    return InvalidSettings(
        f"{label}: {file} has no cloud {cloud!r}.",
        remedy=f"Set 'cloud' to one of: {', '.join(there) or '(none)'}; or 'clouds_file' to another clouds.yaml.",
    )


def another_project(provider: str, here: str, made_in: str, what: str) -> InvalidSettings:
    """Return the refusal to say anything of ``what`` was made in a project, by credentials that are now of another."""
    return InvalidSettings(
        f"{provider}: the credentials are of another project, {here}; its {what} are in {made_in}.",
        remedy="Put the cloud's entry in clouds.yaml right; a new project is an entry of its own.",
    )


def translate_kind(error: Exception, label: str, said: str) -> GridcloudError | None:
    """Return what an error of the library is in our words where its kind tells; ``said``: its own words."""
    for kinds, ours, what, remedy in _KINDS:
        if isinstance(error, kinds):
            return ours(f"{label}: {what}: {said}" if said else f"{label}: {what}", remedy=remedy)
    return None


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that a service answered with; None where none did."""
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    return int(status) if status else None


_KINDS: tuple[tuple[tuple[type[Exception], ...], type[GridcloudError], str, str], ...] = (
    ((keystone.Unauthorized,), InvalidSettings, "the credentials are refused", CREDENTIALS),
    (
        (keystone.MissingRequiredOptions, keystone.NoMatchingPlugin, openstack.exceptions.ConfigException),
        InvalidSettings,
        "the configuration is not complete",
        "Set 'cloud' to a name in clouds.yaml, and 'clouds_file' where that is elsewhere.",
    ),
    (
        (keystone.EmptyCatalog, keystone.EndpointNotFound),
        InvalidSettings,
        "there is no such service in this region",
        "Set 'region' to one of the cloud's that has it: 'openstack catalog list' shows them.",
    ),
    (
        (keystone.SSLError,),
        Untrusted,
        "its certificate is not trusted",
        "Set 'cacert' in clouds.yaml to the certificate of the authority that signed it.",
    ),
    ((keystone.ConnectTimeout, keystone.RequestTimeout), TimedOut, "no answer in time", "Try again later."),
    (
        (keystone.ConnectFailure, keystone.UnknownConnectionError, keystone.DiscoveryFailure),
        Unreachable,
        "it does not answer",
        "Look at 'auth_url' in clouds.yaml, and whether the cloud is up.",
    ),
    ((openstack.exceptions.ResourceTimeout,), TimedOut, "no answer in time", "Try again later."),
)
"""What the library raises, ours, what it means, what to do."""
