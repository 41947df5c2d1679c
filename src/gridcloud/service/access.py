"""Who is asking, and what they may see.

Over the private socket it is whoever may open it: the user gridcloud runs as, who is its administrator. Over HTTPS
it is the user of the API token in ``Authorization: Bearer``. What belongs to somebody else is not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, WebSocket
from starlette.requests import HTTPConnection

from gridcloud.errors import Forbidden, NotAuthenticated, NotFound
from gridcloud.service.house import House

__all__ = ["Admin", "Asking", "Caller", "TheHouse", "caller_of", "house_of"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking."""

    user: str
    admin: bool

    def owner(self, wanted: str | None) -> str:
        """Return for whom something is asked: oneself, or anybody for an administrator. Raises Forbidden."""
        if wanted in (None, "", self.user):
            return self.user
        if not self.admin:
            raise Forbidden(f"{self.user} may not act for {wanted}.", remedy="Ask an administrator.")
        return str(wanted)

    def check(self, owner: str, what: str) -> None:
        """Raise NotFound unless the thing of this owner may be seen."""
        if not self.admin and owner != self.user:
            raise NotFound(f"There is no {what}.")


async def caller_of(connection: HTTPConnection) -> Caller:
    """Return who is asking. Raises NotAuthenticated."""
    known = connection.scope.get("gridcloud.caller")
    if isinstance(known, Caller):
        return known
    house: House = connection.app.state.house
    if connection.scope.get("gridcloud.private"):
        return Caller(house.administrator, admin=True)
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise NotAuthenticated("This needs an API token.", remedy="Send 'Authorization: Bearer gc_…'.")
    user = await house.user_of(secret.strip())
    return Caller(user.name, admin=user.admin)


async def _caller(request: Request) -> Caller:
    return await caller_of(request)


async def _admin(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    if not caller.admin:
        raise Forbidden("This is for administrators.")
    return caller


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


def house_of(websocket: WebSocket) -> House:
    """Return the house that a websocket talks to."""
    house: House = websocket.app.state.house
    return house


Asking = Annotated[Caller, Depends(_caller)]
Admin = Annotated[Caller, Depends(_admin)]
TheHouse = Annotated[House, Depends(_house)]
