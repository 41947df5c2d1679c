"""Whose account of this computer somebody's programs run as: never another person's, nor the system's."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from gridcloud.errors import Forbidden
from gridcloud.instances.model import NOBODY

__all__ = ["account_for"]

_ORDINARY_UID = 1000


def account_for(owner: str, accounts: Mapping[str, str], *, share: bool, root: bool) -> str:
    """Return the account of an owner, empty for gridcloud's own.

    ``accounts`` names those that differ from the owner's name; ``share``: all may have gridcloud's own where it is not
    root; ``root``: who has none may have root's. Raises Forbidden when there is none.
    """
    name = accounts.get(owner, owner)
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid()).pw_name
        if name == own or share:
            return ""
        raise _refusal(
            owner,
            f"gridcloud runs as {own} here, and {owner!r} would share its files",
            "Run gridcloud as root so that each owner has an account, use the container driver, or set "
            "'share_account' of this provider.",
        )
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        entry = None
    if entry is not None and entry.pw_name == name:
        if entry.pw_uid == 0:
            return ""
        if entry.pw_uid >= _ORDINARY_UID and entry.pw_name != "nobody":
            return name
        if owner in accounts or not root:
            raise Forbidden(
                f"{name!r} is a system account of this computer: nothing is run as it",
                remedy="Map the owner to an ordinary account in 'accounts' of this provider.",
            )
    if root and owner not in accounts:
        return ""
    no_use = ", where 'share_account' does not count" if share else ""
    raise _refusal(
        owner,
        f"{name!r} has no account on this computer, and gridcloud runs as root here{no_use}",
        "Create the account, map the owner to one in 'accounts' of this provider, or run gridcloud without root.",
    )


def _refusal(owner: str, message: str, remedy: str) -> Forbidden:
    """Return why an owner has no account, in words that know of no seat's internal name."""
    if not owner.startswith(NOBODY):
        return Forbidden(message, remedy=remedy)
    return Forbidden(
        "Each person has an account of their own on this computer, and a course's seat belongs to nobody yet",
        remedy="Sessions on this computer start at once: leave its courses without seats.",
    )
