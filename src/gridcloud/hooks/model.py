"""What a hook is told of the session to come, and what it gives to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gridcloud.errors import InvalidSettings
from gridcloud.identity.credentials import Secret

__all__ = ["Context", "Mount", "Outcome"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._:-]{0,253}[A-Za-z0-9_])?")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class Context:
    """Whose session is about to start. Nothing of it is trusted: names and values come from users and logins."""

    user: str
    server: str = ""
    """The name of the user's server; empty for the first one."""
    groups: frozenset[str] = frozenset()
    profile: str = ""
    known: Mapping[str, str] = field(default_factory=dict)
    """What placeholders such as ``JUPYTERHUB_USER`` stand for."""
    auth_state: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the authenticator kept of the login; it may be secret."""

    def words(self) -> dict[str, str]:
        """Return all that placeholders stand for: ``known``, and ``auth_state.KEY`` for its texts and numbers."""
        return {**dict(_flat("auth_state", self.auth_state)), **self.known, "JUPYTERHUB_USER": self.user}


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of a file server, to be mounted by SSHFS on the session's machine, under the session's account."""

    host: str
    account: str
    key: Secret
    """The private key to log in with, as OpenSSH or PEM writes it, without a passphrase."""
    host_keys: tuple[str, ...]
    """Public keys of which the server must show one, each ``TYPE BASE64``."""
    port: int = 22
    folder: str = ""
    """The folder there; empty: the account's home."""
    at: str = "remote"
    """Where it appears: a path below the session's home, made when missing."""
    certificate: str = ""
    """The certificate that goes with the key; empty: the key alone lets in."""
    life: int = 43200
    """Seconds after which the key is forgotten."""
    read_only: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidSettings for what is no plain name: each ends up in the words of a command."""
        parts = self.at.split("/")
        wrong = [
            name
            for name, good in (
                ("host", _HOST.fullmatch(self.host)),
                ("account", _ACCOUNT.fullmatch(self.account)),
                ("port", 0 < self.port < 65536),
                ("folder", _PLAIN.fullmatch(self.folder) and ".." not in self.folder.split("/")),
                ("at", _PLAIN.fullmatch(self.at) and not {"", ".", ".."} & set(parts)),
                ("host_keys", self.host_keys and all(_PLAIN.fullmatch(key) for key in self.host_keys)),
                ("certificate", _PLAIN.fullmatch(self.certificate)),
                ("life", self.life > 0),
            )
            if not good
        ]
        if wrong:
            raise InvalidSettings(
                f"A mount has no proper {', '.join(wrong)}: {self.host!r:.80} at {self.at!r:.80}."
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a hook gives to the session. Raises InvalidSettings for what is no environment."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the session; they may be secret. Those that begin with JUPYTERHUB_ are JupyterHub's own."""
    mounts: tuple[Mount, ...] = ()

    def __post_init__(self) -> None:
        """Check the environment."""
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(name) or name.startswith("JUPYTERHUB_"):
                raise InvalidSettings(f"{name!r:.80} is no name for a variable of a session.")
            if "\0" in value:
                raise InvalidSettings(f"The value for the variable {name} holds a NUL character.")

    def __add__(self, other: Outcome) -> Outcome:
        """Return both together; of a variable in both, the other's value."""
        return Outcome({**self.environment, **other.environment}, (*self.mounts, *other.mounts))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [one for key, inner in value.items() for one in _flat(f"{name}.{key}", inner)]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return [(name, str(value))]
    return []
