"""How long a session of a profile may live in all, extended. Pure: no clock, no files."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from gridcloud.errors import Forbidden
from gridcloud.instances.model import Request
from gridcloud.profiles.model import Choice, Terms
from gridcloud.profiles.permission import COMPARED, tighter
from gridcloud.profiles.reading import read_request

__all__ = ["longest_life"]


def longest_life(choice: Choice, request: Request, course: str, began: datetime) -> int:
    """Return for how many seconds a session with this request may live that began then, 0: as long as it likes.

    That is the limit of the terms that it was started under, those of its ``course`` if it is of one; where they have
    none, the longest time that its user could have chosen. Raises Forbidden where no terms allow it any more.
    """
    terms = [one for one in choice.terms if one.course == course] if course else list(choice.terms)
    lives = [life for one in terms if (life := _life(choice, one, request, began)) is not None]
    if not lives:
        raise Forbidden(f"{choice.title!r} does not allow it any more.", remedy="Save your work.")
    return 0 if 0 in lives else max(lives)


def _life(choice: Choice, terms: Terms, request: Request, began: datetime) -> int | None:
    """Return the seconds under some terms, 0: as many as it likes; None where they do not allow it."""
    limits = tighter(choice.profile.limits, terms.limits)
    for name in COMPARED:
        most = getattr(limits, name)
        if most is not None and getattr(request, name) > most:
            return None
    life = limits.time if limits.time is not None else _longest_choice(choice)
    if terms.until is not None:
        end = datetime.combine(terms.until + timedelta(days=1), time(), UTC)
        left = max(1, int((end - began).total_seconds()))
        life = min(life, left) if life else left
    return life


def _longest_choice(choice: Choice) -> int:
    """Return the longest time that can be asked for, 0: any."""
    profile = choice.profile
    rule = profile.choose.get("time")
    if rule is None:
        return profile.request.time
    times = [read_request({"time": value}).time for value in rule.values or (rule.most or "0",)]
    return 0 if 0 in times else max(times)
