"""What the configuration says of lending, read for the lender's rules: an error names the key and the column."""

from __future__ import annotations

import math

from gridcloud.errors import GridcloudError, InvalidSettings
from gridcloud.federation.favour import Weights
from gridcloud.federation.leases import Terms
from gridcloud.federation.limits import Limit, Rules
from gridcloud.federation.policy import read_policy
from gridcloud.federation.wishes import Capacity
from gridcloud.grid.wishes import MEBIBYTE
from gridcloud.settings import LendingSettings, LentLimit, LentRoom, Settings

__all__ = [
    "PEER",
    "lending_problems",
    "lent_providers",
    "read_rules",
    "read_terms",
    "read_weights",
    "room_of",
]

PEER = "peer"
"""The driver of other institutions: what they lend is never lent on."""


def read_terms(settings: LendingSettings) -> Terms:
    """Return how long things last."""
    return Terms(ttl=1000 * settings.ttl, tolerance=1000 * settings.tolerance, grace=1000 * settings.grace)


def read_weights(settings: LendingSettings) -> Weights:
    """Return what a GPU-hour counts for."""
    return Weights(gpu=settings.gpu_weight)


def read_rules(settings: LendingSettings) -> Rules:
    """Return what decides on a wish. Raises InvalidSettings, showing the column, for a policy that cannot be read."""
    try:
        policy = read_policy(settings.policy, settings.names)
    except InvalidSettings as error:
        raise InvalidSettings(
            f"lending.policy: {error.message}", remedy=error.remedy, details=error.details
        ) from error
    reserve, capacity = room_of(settings.reserve), room_of(settings.capacity)
    if not reserve.fits(capacity):
        raise InvalidSettings(
            "lending.reserve: more is reserved than lending.capacity says that there is.",
            remedy="Write what the lent providers have in all under lending.capacity.",
        )
    return Rules(policy, tuple(_limit(one) for one in settings.limits), reserve)


def lent_providers(settings: Settings) -> tuple[str, ...]:
    """Return the names of our providers that are lent. Raises InvalidSettings for one that cannot be."""
    for number, name in enumerate(settings.lending.providers):
        entry = settings.providers.get(name)
        place = f"lending.providers.{number}"
        if entry is None:
            known = ", ".join(settings.providers) or "none"
            raise InvalidSettings(f"{place}: no provider is named {name!r:.80}; there are: {known}.")
        if isinstance(entry, GridcloudError):
            raise InvalidSettings(f"{place}: the provider {name} cannot be used: {entry.message}")
        if entry.driver == PEER:
            raise InvalidSettings(
                f"{place}: {name} is another institution: what it lends is not lent on.",
                remedy="Name providers of our own only.",
            )
        if (exposure := entry.exposure()) and not settings.lending.trust_partners:
            raise InvalidSettings(
                f"{place}: on machines of {name} {exposure}, and so would users of all partners.",
                remedy="Lend containers or virtual machines. Only where every partner is trusted with all that this "
                "gridcloud has: set lending.trust_partners.",
            )
    return tuple(dict.fromkeys(settings.lending.providers))


def lending_problems(settings: Settings) -> list[GridcloudError]:
    """Return what is wrong with the section `lending`, for people to mend: nothing is lent meanwhile."""
    problems: list[GridcloudError] = []
    for read in (lambda: read_rules(settings.lending), lambda: lent_providers(settings)):
        try:
            read()
        except InvalidSettings as error:
            problems.append(error)
    return problems


def room_of(room: LentRoom) -> Capacity:
    """Return an amount as leases count it."""
    return Capacity(
        millicores=round(room.cpus * 1000), memory=min(room.memory // MEBIBYTE, 1_000_000_000), gpus=room.gpus
    )


def _limit(one: LentLimit) -> Limit:
    return Limit(
        institution=one.institution,
        group=one.group,
        millicores=None if one.cpus is None else math.floor(one.cpus * 1000),
        memory=None if one.memory is None else one.memory // MEBIBYTE,
        gpus=one.gpus,
        leases=one.leases,
        seconds=one.time,
    )
