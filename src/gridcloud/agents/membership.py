"""What a machine keeps of having joined, in a folder that nobody else may read: its key, whom it trusts, its terms."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gridcloud.agents.invitations import Token, fingerprint, key_of
from gridcloud.agents.model import AGENT_NAME, Caps, Terms
from gridcloud.errors import InvalidRequest, InvalidSettings, Untrusted
from gridcloud.identity.authority import Authority
from gridcloud.identity.handover import Handover, leads
from gridcloud.identity.keys import KeyFolder, write_whole

__all__ = ["Answer", "Membership", "MembershipFolder", "Trust", "check_url", "trust_of"]


class Trust(BaseModel):
    """Whose certificates a machine is to believe, and why it may: signed steps from whom it believed before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    authority: str = Field(max_length=2000)
    """Public key line of the service's user authority."""
    handovers: tuple[Handover, ...] = Field(default=(), max_length=1000)

    def authorities(self) -> tuple[str, ...]:
        """Return the present authority, and those that lead to it."""
        return (
            self.authority,
            *(one.old for one in self.handovers if leads(one.old, self.authority, self.handovers)),
        )


class Answer(Trust):
    """What the service tells a machine that has joined."""

    name: str = Field(pattern=AGENT_NAME)
    installation: str
    caps: Caps = Caps()


class Membership(BaseModel):
    """A machine's place in one gridcloud."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    name: str
    installation: str
    authority: str
    invitation: str
    caps: Caps = Caps()
    terms: Terms = Terms()


class MembershipFolder:
    """The private folder of one membership."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys = KeyFolder(path / "key")
        self._file = path / "membership.json"

    async def key(self) -> asyncssh.SSHKey:
        """Return the machine's key, made at the first use. It never leaves the folder."""
        return await asyncio.to_thread(self._key)

    def read(self) -> Membership | None:
        """Return what is kept; None where the machine has not joined. Raises InvalidSettings for a damaged file."""
        try:
            return Membership.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise InvalidSettings(f"{self._file} is damaged: {error.error_count()} mistakes.") from error

    def keep(self, url: str, token: Token, answer: Answer, terms: Terms) -> Membership:
        """Keep what the service told. Raises Untrusted when it is not who the token was made by."""
        if token.authority not in map(fingerprint, answer.authorities()):
            raise Untrusted(
                f"{url} is not the gridcloud that the token was made by.",
                remedy="Compare the address with the invitation's; somebody may be in between.",
            )
        membership = Membership(
            url=url,
            name=answer.name,
            installation=answer.installation,
            authority=key_of(answer.authority),
            invitation=token.id,
            caps=answer.caps,
            terms=terms,
        )
        self.write(membership)
        return membership

    def write(self, membership: Membership) -> None:
        """Keep it as given."""
        self._make()
        write_whole(self._file, json.dumps(membership.model_dump(mode="json"), indent=1).encode(), 0o600)

    def has_key(self) -> bool:
        """Return whether the machine's key was made."""
        return (self.path / "key").exists()

    def forget_key(self) -> None:
        """Forget the key of a machine that has not joined, and the folder where nothing else is in it."""
        shutil.rmtree(self.path / "key", ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def remove(self) -> None:
        """Forget everything. Removing what is not there succeeds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _key(self) -> asyncssh.SSHKey:
        self._make()
        return self._keys.ensure("machine", "gridcloud machine")

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o700)


def trust_of(authority: Authority) -> Trust:
    """Return what machines are told of an authority."""
    return Trust(authority=authority.user_authority, handovers=authority.handovers("user"))


def check_url(url: str) -> str:
    """Return the address of a service without what follows it. Raises InvalidRequest for one without TLS, save here."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.query or parts.fragment:
        raise InvalidRequest(f"{url!r:.100} is no address of a service.", remedy="Write https://HOST.")
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidRequest(
            f"{url!r:.100} is not protected by TLS.",
            remedy="Write https://…; http is for this computer only.",
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
