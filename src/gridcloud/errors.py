"""Every error raised on purpose, as one tree split by what the caller does next.

    GridcloudError
    ├── Transient                 try again, here or elsewhere
    │   ├── Unreachable           nothing answers at that address
    │   │   └── ConnectionLost    it answered before and no longer does
    │   ├── TimedOut              it took longer than it was given
    │   ├── Throttled             asked too often
    │   ├── Conflict              somebody else changed the record first
    │   └── Unavailable           the provider cannot give this now: take the next offer
    │       ├── NoCapacity
    │       └── QuotaExceeded
    ├── NotFound                  it is not there (any more)
    └── Rejected                  never works as asked: say so
        ├── InvalidRequest        the question is wrong
        ├── InvalidSettings       the configuration is wrong
        ├── Forbidden             not allowed to this user
        │   └── NotAuthenticated  nobody knows who is asking
        ├── Untrusted             a host key, certificate or signature is not the expected one
        │   └── MessageRefused    a message of another institution is not accepted
        │       ├── Malformed     it is not in the protocol's form
        │       ├── WrongVersion  it is in a version that is not spoken here
        │       ├── Misdirected   it is for somebody else
        │       ├── Expired       its time is over, or it has none yet
        │       ├── ClockSkew     the clocks are too far apart
        │       ├── TooLongLived  it wants to be valid for longer than is allowed
        │       ├── UnknownSigner nobody known here signed it
        │       ├── Revoked       who or what signed it was revoked
        │       ├── Forged        the signature is not that of the signer
        │       ├── Replayed      it was used already
        │       └── Forked        two true documents contradict each other
        ├── NoOffer               no provider can serve the request
        ├── StorageFull           no space left at the other end
        ├── PortTaken             somebody else listens there
        ├── ConfigurationFailed   a machine could not be configured
        ├── DriverUnavailable     a driver cannot be loaded
        └── StoreTooNew           the store was written by a newer gridcloud

A message names the thing, what is wrong and what to do; ``remedy`` holds the last part where it stands alone.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ClockSkew",
    "ConfigurationFailed",
    "Conflict",
    "ConnectionLost",
    "DriverUnavailable",
    "Expired",
    "Forbidden",
    "Forged",
    "Forked",
    "GridcloudError",
    "InvalidRequest",
    "InvalidSettings",
    "Malformed",
    "MessageRefused",
    "Misdirected",
    "NoCapacity",
    "NoOffer",
    "NotAuthenticated",
    "NotFound",
    "PortTaken",
    "QuotaExceeded",
    "Rejected",
    "Replayed",
    "Revoked",
    "StorageFull",
    "StoreTooNew",
    "Throttled",
    "TimedOut",
    "TooLongLived",
    "Transient",
    "Unavailable",
    "UnknownSigner",
    "Unreachable",
    "Untrusted",
    "WrongVersion",
    "from_problem",
]


class GridcloudError(Exception):
    """The root. ``status`` is the HTTP status of the service's answer, ``exit_code`` that of the command line."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        stop = "." if self.remedy and self.message[-1:].isalnum() else ""
        return f"{self.message}{stop} {self.remedy}".strip()

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document; ``type`` is the class's name, so that clients raise it again."""
        return {
            "type": f"urn:gridcloud:error:{type(self).__name__}",
            "title": type(self).__name__,
            "status": self.status,
            "detail": self.message,
            "remedy": self.remedy,
            "details": self.details,
        }


class Transient(GridcloudError):
    """It may work on another try."""

    status = 503
    exit_code = 4


class Unreachable(Transient):
    """Nothing answers at the address."""


class ConnectionLost(Unreachable):
    """The other end answered before and no longer does."""


class TimedOut(Transient):
    """It took longer than it was given."""

    status = 504


class Throttled(Transient):
    """The provider asks us to slow down."""

    status = 429


class Conflict(Transient):
    """The record was changed by somebody else since it was read."""

    status = 409
    exit_code = 7


class Unavailable(Transient):
    """The provider cannot give this now; another offer may."""


class NoCapacity(Unavailable):
    """Everything that fits is taken."""


class QuotaExceeded(Unavailable):
    """The account's limit is reached."""


class NotFound(GridcloudError):
    """It is not there, or not visible to this user."""

    status = 404
    exit_code = 3


class Rejected(GridcloudError):
    """It never works as asked."""

    status = 400
    exit_code = 2


class InvalidRequest(Rejected):
    """A value of the request is wrong."""

    status = 422


class InvalidSettings(Rejected):
    """A value of the configuration is wrong."""

    status = 422


class Forbidden(Rejected):
    """This user may not do this."""

    status = 403
    exit_code = 6


class NotAuthenticated(Forbidden):
    """Nobody knows who is asking."""

    status = 401


class Untrusted(Rejected):
    """A host key, certificate or signature is not the one that was expected."""

    status = 502
    exit_code = 6


class MessageRefused(Untrusted):
    """A message or document of another institution is not accepted; `details` name who and what, for the log."""

    status = 403

    @property
    def who(self) -> str:
        """Who sent it, as far as it says; `somebody unknown` where that cannot be read."""
        return str(self.details.get("who") or "somebody unknown")

    @property
    def what(self) -> str:
        """What was refused, such as `lease.request 1n9k7x2c`."""
        return str(self.details.get("what") or "a message")

    @property
    def why(self) -> str:
        """Why, in one line."""
        return self.message


class Malformed(MessageRefused):
    """A message is not in the form of the protocol."""

    status = 400


class WrongVersion(MessageRefused):
    """A message is in a version of the protocol that is not spoken here."""

    status = 400


class Misdirected(MessageRefused):
    """A message is for another institution."""


class Expired(MessageRefused):
    """The time of a message, key or document is over, or has not begun."""


class ClockSkew(MessageRefused):
    """The clocks of sender and receiver are too far apart; `details["seconds"]` says by how much."""


class TooLongLived(MessageRefused):
    """A message wants to be valid for longer than is allowed."""


class UnknownSigner(MessageRefused):
    """Nobody who is known here signed it."""


class Revoked(MessageRefused):
    """The member or the key that signed it was revoked."""


class Forged(MessageRefused):
    """The signature is not that of who is said to have signed."""


class Replayed(MessageRefused):
    """It was used already and works only once."""


class Forked(MessageRefused):
    """Two documents of the same version, both truly signed, contradict each other."""

    status = 409


class NoOffer(Rejected):
    """No provider can serve the request."""

    status = 409
    exit_code = 5


class StorageFull(Rejected):
    """No space is left at the other end."""

    status = 507


class PortTaken(Rejected):
    """Somebody else listens on the port."""

    status = 409


class ConfigurationFailed(Rejected):
    """A machine could not be configured."""

    status = 502


class DriverUnavailable(Rejected):
    """A driver cannot be loaded."""

    status = 501


class StoreTooNew(Rejected):
    """The store was written by a newer gridcloud."""


def from_problem(document: dict[str, Any]) -> GridcloudError:
    """Return the error a problem document describes; an unknown type becomes a plain ``GridcloudError``."""
    name = str(document.get("type", "")).rpartition(":")[2]
    kind = _kinds(GridcloudError).get(name, GridcloudError)
    message = str(document.get("detail") or document.get("title") or "the service answered with an error")
    details = document.get("details")
    return kind(
        message,
        remedy=str(document.get("remedy", "")),
        details=details if isinstance(details, dict) else None,
    )


def _kinds(root: type[GridcloudError]) -> dict[str, type[GridcloudError]]:
    found = {root.__name__: root}
    for kind in root.__subclasses__():
        found |= _kinds(kind)
    return found
