"""Who asks, what they may use, and what it comes to: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from gridcloud.instances.model import Request
from gridcloud.settings.profiles import ProfileLimits, ProfileSettings

__all__ = ["Choice", "Person", "Settled", "Terms"]


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the hub, as its authenticator knows them."""

    name: str
    groups: frozenset[str] = frozenset()
    contexts: frozenset[str] = frozenset()
    """Contexts of LTI 1.3 that the user came from, or came from earlier."""
    addresses: frozenset[str] = frozenset()
    """E-mail addresses that the authenticator has verified."""


@dataclass(frozen=True, slots=True)
class Terms:
    """One reason why somebody may use a profile, with the rules that go with it."""

    limits: ProfileLimits
    until: date | None = None
    """The last day."""
    course: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile that somebody may use today. A request has to keep to one of its terms as a whole."""

    name: str
    profile: ProfileSettings
    terms: tuple[Terms, ...]

    @property
    def title(self) -> str:
        """What users read."""
        return self.profile.title or self.name


@dataclass(frozen=True, slots=True)
class Settled:
    """A choice, and the request that it comes to."""

    choice: Choice
    request: Request
    terms: Terms
