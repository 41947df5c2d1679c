"""The wire to an LDAP directory: blocking, for a thread. Refusals are translated here and nowhere else."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException

from gridcloud.drivers.hooks.ldap_settings import LDAPSettings
from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidSettings,
    NotFound,
    TimedOut,
    Unavailable,
    Unreachable,
    Untrusted,
)
from gridcloud.identity.credentials import resolve

__all__ = ["Directory", "Entry", "Watch", "escape_filter", "escape_name", "open_directory"]

STEP = 10
"""Seconds that one question and its answer may take at most."""

SUCCESS, SIZE_LIMIT, NO_SUCH_ATTRIBUTE, NO_SUCH_OBJECT, EXISTS = 0, 4, 16, 32, 68

REFUSALS: Mapping[int, tuple[type[GridcloudError], str]] = {
    3: (TimedOut, "took longer than it allows itself"),
    8: (InvalidSettings, "wants a stronger way to log in"),
    11: (Unavailable, "has a limit of its own that was reached"),
    13: (InvalidSettings, "wants TLS"),
    16: (InvalidSettings, "knows no such attribute there"),
    17: (InvalidSettings, "knows no such attribute"),
    18: (InvalidSettings, "cannot compare that attribute so"),
    19: (InvalidSettings, "allows no such value"),
    21: (InvalidSettings, "does not take the form of a value"),
    32: (NotFound, "has no such entry"),
    34: (InvalidSettings, "does not take a distinguished name"),
    48: (InvalidSettings, "does not let the hub's account log in so"),
    49: (InvalidSettings, "does not accept the name or password of the hub's account"),
    50: (Forbidden, "does not allow that to the hub's account"),
    51: (Unavailable, "is busy"),
    52: (Unavailable, "is not available"),
    53: (Forbidden, "is unwilling"),
    64: (InvalidSettings, "does not take the entry's name"),
    65: (InvalidSettings, "misses or does not allow an attribute of the entry's classes"),
    80: (Unavailable, "failed"),
}
"""Result codes of RFC 4511, appendix A."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: its distinguished name, and its values by attribute in lower case. What is no text is left out."""

    name: str
    values: Mapping[str, tuple[str, ...]]

    def get(self, attribute: str) -> tuple[str, ...]:
        """Return the values of an attribute, however its name is written."""
        return self.values.get(attribute.lower(), ())


class Watch:
    """Ends work in a thread: at its time, or when nobody waits for it any more."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._left = threading.Event()

    def leave(self) -> None:
        """Let nothing more begin."""
        self._left.set()

    def wait(self, seconds: float) -> None:
        """Wait. Raises TimedOut as `check` does."""
        self._left.wait(seconds)
        self.check()

    def check(self) -> float:
        """Return how many seconds are left. Raises TimedOut when none are."""
        left = self._until - time.monotonic()
        if left <= 0 or self._left.is_set():
            raise TimedOut("There was no more time for the directory.")
        return left


class Directory:
    """An open, logged-in connection. Its methods raise GridcloudError."""

    def __init__(self, url: str, connection: Any, watch: Watch) -> None:
        self.url = url
        self._connection = connection
        self.watch = watch

    def search(self, base: str, filter: str, attributes: Sequence[str]) -> list[Entry]:
        """Return the entries below ``base``, it included, that the filter finds; of more than two, two."""
        return self._find(base, filter, attributes, ldap3.SUBTREE, missing=False)

    def read(self, name: str, attributes: Sequence[str]) -> Entry | None:
        """Return one entry by its distinguished name."""
        found = self._find(name, "(objectClass=*)", attributes, ldap3.BASE, missing=True)
        return found[0] if found else None

    def add(self, name: str, classes: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> bool:
        """Make an entry. Returns False when there is one of that name."""
        values = {attribute: [value.encode() for value in given] for attribute, given in attributes.items()}
        code = self._ask("add", name, list(classes), values, allowed=(EXISTS,))
        return code == SUCCESS

    def swap(self, name: str, attribute: str, old: str, new: str) -> bool:
        """Replace a value, in one modification that fails where it is no longer there. Returns whether it was."""
        changes = {attribute: [(ldap3.MODIFY_DELETE, [old.encode()]), (ldap3.MODIFY_ADD, [new.encode()])]}
        return self._ask("modify", name, changes, allowed=(NO_SUCH_ATTRIBUTE,)) == SUCCESS

    def _find(
        self, base: str, filter: str, attributes: Sequence[str], scope: Any, *, missing: bool
    ) -> list[Entry]:
        allowed = (SIZE_LIMIT, NO_SUCH_OBJECT) if missing else (SIZE_LIMIT,)
        wanted = list(attributes) or [ldap3.NO_ATTRIBUTES]
        self._ask("search", base, filter, scope, attributes=wanted, size_limit=2, allowed=allowed)
        return [
            Entry(str(one["dn"]), dict(_texts(one["raw_attributes"])))
            for one in self._connection.response or ()
            if one.get("type") == "searchResEntry"
        ]

    def _ask(self, verb: str, *words: Any, allowed: tuple[int, ...], **named: Any) -> int:
        self.watch.check()
        try:
            getattr(self._connection, verb)(*words, **named)
        except LDAPException as error:
            raise _translated(self.url, error) from error
        return _code(self.url, self._connection.result, allowed)


@contextmanager
def open_directory(settings: LDAPSettings, folder: Path, watch: Watch) -> Iterator[Directory]:
    """Open the first directory that answers, encrypted and logged in; close it afterwards.

    Raises Unreachable when none answers, Untrusted for a certificate that cannot be trusted, and what the secret's
    place and the directory say of the hub's account.
    """
    password = resolve(settings.password).reveal().rstrip("\r\n") if settings.password else ""
    for url in settings.url[:-1]:
        with suppress(Unreachable):
            directory = _open(url, settings, password, folder, watch)
            break
    else:
        directory = _open(settings.url[-1], settings, password, folder, watch)
    try:
        yield directory
    finally:
        _close(directory._connection)


def escape_name(value: str) -> str:
    """Return a value as it stands in a distinguished name (RFC 4514, section 2.4), wherever in it."""
    last = len(value) - 1
    return "".join(
        f"\\{ord(one):02x}"
        if one in '"+,;<>\\=#' or not " " <= one != "\x7f" or (one == " " and place in (0, last))
        else one
        for place, one in enumerate(value)
    )


def escape_filter(value: str) -> str:
    """Return a value as it stands in a filter (RFC 4515, section 3)."""
    return "".join(
        "".join(f"\\{byte:02x}" for byte in one.encode())
        if one in "*()\\=&|!<>~" or ord(one) < 0x20 or ord(one) >= 0x7F
        else one
        for one in value
    )


class _TLS(ldap3.Tls):  # type: ignore[misc]  # it has no types
    """TLS as Python does it: the library's own way checks names by what Python no longer has."""

    def __init__(self, host: str, certificate: str | None) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._host = host
        self._context = ssl.create_default_context(cafile=certificate)

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket = self._context.wrap_socket(
            connection.socket, server_hostname=self._host, do_handshake_on_connect=do_handshake
        )


def _open(url: str, settings: LDAPSettings, password: str, folder: Path, watch: Watch) -> Directory:
    """Return a directory at the first of the URL's addresses that answers."""
    place = urlsplit(url)
    host, port = str(place.hostname), place.port or (636 if place.scheme == "ldaps" else 389)
    certificate = folder / Path(settings.certificate).expanduser() if settings.certificate else None
    if certificate is not None and not certificate.is_file():
        raise InvalidSettings(f"There is no file {certificate} with the directory's authority.")
    tls = _TLS(host, str(certificate) if certificate else None)
    fault: GridcloudError = Unreachable(f"The directory {url} has no address.")
    for address in _addresses(url, host, port):
        step = max(1, int(min(STEP, watch.check())))
        server = ldap3.Server(
            address, port, use_ssl=place.scheme == "ldaps", tls=tls, get_info=ldap3.NONE, connect_timeout=step
        )
        connection = ldap3.Connection(
            server,
            user=settings.bind or None,
            password=password or None,
            authentication=ldap3.SIMPLE if settings.bind else ldap3.ANONYMOUS,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            check_names=False,
            receive_timeout=step,
        )
        try:
            _log_in(url, connection, place.scheme == "ldap" and not settings.plain)
            return Directory(url, connection, watch)
        except BaseException as error:
            _close(connection)
            if not isinstance(error, Unreachable):
                raise
            fault = error
    raise fault


def _addresses(url: str, host: str, port: int) -> list[str]:
    """Return the addresses of a host: the library leaves a socket open at each that does not answer."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"The directory {url} is not to be found: {error.strerror}.") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _log_in(url: str, connection: Any, start_tls: bool) -> None:
    try:
        connection.open()
        if start_tls:
            connection.start_tls()
        connection.bind()
    except LDAPException as error:
        raise _translated(url, error) from error
    _code(url, connection.result, ())


def _close(connection: Any) -> None:
    with suppress(LDAPException, OSError):
        connection.unbind()
    if connection.socket is not None:
        connection.socket.close()


def _code(url: str, result: Mapping[str, Any], allowed: tuple[int, ...]) -> int:
    """Return a result's code, which is one of those allowed, or success. Raises GridcloudError for all others."""
    code = int(result.get("result", 80))
    if code == SUCCESS or code in allowed:
        return code
    kind, words = REFUSALS.get(code, (Unavailable, "answers what nobody expects"))
    said = ": ".join(str(result[key]) for key in ("description", "message") if result.get(key))
    raise kind(f"The directory {url} {words} ({said or code}).")


def _translated(url: str, error: LDAPException) -> GridcloudError:
    said = " ".join(str(part) for part in error.args) or type(error).__name__
    if "certificate" in said.lower() or "hostname" in said.lower():
        return Untrusted(f"The certificate of the directory {url} is not trusted: {said}.")
    return Unreachable(f"The directory {url} does not answer: {said}.")


def _texts(values: Mapping[str, Sequence[bytes]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for attribute, given in values.items():
        with suppress(UnicodeDecodeError):
            yield attribute.lower(), tuple(bytes(value).decode() for value in given)
