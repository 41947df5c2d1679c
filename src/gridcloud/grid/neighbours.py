"""What the desks of lending, borrowing and the accounts need to know of our institution and of others."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Protocol

from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.keys import PrivateKey
from gridcloud.federation.records import Profile
from gridcloud.grid.model import Community, Member

__all__ = ["Asking", "Neighbours"]


class Asking(Protocol):
    """How others are asked; see `calling.Caller`."""

    async def ask(
        self, institution: str, kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        """Send one message to a member, and return the kind and body of its answer."""

    async def open_stream(
        self, institution: str, name: str, id: str, *, timeout: float = 30.0
    ) -> socket.socket:
        """Open a stream of bytes to what a member serves."""


class Neighbours(Protocol):
    """Our institution among others; `office.Office` is it."""

    @property
    def caller(self) -> Asking:
        """Asks other members."""

    @property
    def initialised(self) -> bool:
        """Whether we take part at all."""

    @property
    def me(self) -> str:
        """Our institution's id."""

    def service_key(self) -> PrivateKey:
        """Return the key that signs now."""

    def signers(self) -> Signers:
        """Return whose documents are believed now."""

    def members(self) -> Mapping[str, Member]:
        """Return who is a member of any community of ours now, by id; not ourselves."""

    def communities(self) -> tuple[Community, ...]:
        """Return our communities."""

    def communities_of(self, institution: str) -> frozenset[str]:
        """Return the ids of our communities that an institution is a member of now."""

    def profiles(self) -> Mapping[str, Profile]:
        """Return what other members' newest records say, by id."""

    def find(self, institution: str) -> str:
        """Return the id of a member by its id, its digits or its name. Raises NotFound, InvalidRequest."""
