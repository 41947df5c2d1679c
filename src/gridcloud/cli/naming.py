"""Which instance or session is meant: by its id, or by the name that the list shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gridcloud.client import AsyncClient
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.instances.model import Instance
from gridcloud.sessions.model import Session

__all__ = ["find_instance", "find_instances", "find_session"]

Thing = TypeVar("Thing", Instance, Session)


async def find_instance(client: AsyncClient, word: str) -> Instance:
    """Return the instance with this id, ended or not, or the caller's live one of this name.

    Raises what `find_session` raises.
    """
    if _may_be_id(word):
        try:
            return await client.instance(word)
        except NotFound:
            pass
    user = (await client.version()).user
    return _only("instance", word, await client.instances(), user)


async def find_instances(client: AsyncClient, words: Iterable[str]) -> list[Instance]:
    """Return what `find_instance` finds for each word, every instance once. Raises what it raises."""
    found = [await find_instance(client, word) for word in words]
    return list({instance.id: instance for instance in found}.values())


async def find_session(client: AsyncClient, word: str) -> Session:
    """Return the session with this id, ended or not, or the caller's live one of this name.

    Raises NotFound, which for an administrator says who else has one of this name, and InvalidRequest where several
    have the name. What is another's is meant by its id alone: nobody is to stop it by mistake.
    """
    if _may_be_id(word):
        try:
            return await client.session(word)
        except NotFound:
            pass
    user = (await client.version()).user
    return _only("session", word, await client.sessions(), user)


def _may_be_id(word: str) -> bool:
    """Whether a service may be asked for it: a name may hold anything, '..' and '/' too."""
    return re.fullmatch(r"[A-Za-z0-9_-]+", word) is not None


def _only(kind: str, word: str, things: Sequence[Thing], user: str) -> Thing:
    of_all = [thing for thing in things if word and thing.name == word]
    named = [thing for thing in of_all if thing.owner == user]
    if not named and of_all:
        others = ", ".join(f"{thing.id} of {thing.owner}" for thing in of_all)
        raise NotFound(
            f"You have no {kind} {word!r}; others have: {others}.", remedy="Say whose you mean by its id."
        )
    if not named:
        raise NotFound(f"There is no {kind} {word!r}.")
    if len(named) > 1:
        ids = ", ".join(thing.id for thing in named)
        raise InvalidRequest(
            f"{len(named)} {kind}s have the name {word!r}: {ids}.", remedy="Say which by its id."
        )
    return named[0]
