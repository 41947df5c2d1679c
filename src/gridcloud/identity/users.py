"""The users that are more than a name: administrators, and members of groups."""

from __future__ import annotations

from gridcloud.errors import Conflict, NotFound
from gridcloud.identity.model import User
from gridcloud.store import Entry, Store

__all__ = ["Users"]

KIND = "user"


class Users:
    """The users in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: str) -> User:
        """Return the user; one that was never kept is nobody special."""
        try:
            record = await self._store.get(KIND, name)
        except NotFound:
            return User(name=name)
        return User.model_validate({**record.body, "name": record.id})

    async def put(self, user: User) -> None:
        """Keep the user as given. Raises Conflict when somebody else does so at the same time."""
        body = user.model_dump(mode="json", exclude={"name"})
        told = [Entry("changed", f"administrator: {user.admin}, groups: {', '.join(user.groups) or 'none'}")]
        try:
            record = await self._store.get(KIND, user.name)
        except NotFound:
            await self._store.insert(KIND, user.name, user.name, "known", body, told)
            return
        await self._store.update(record, body=body, events=told)

    async def remove(self, name: str) -> None:
        """Forget what was special about a user. Forgetting the unknown succeeds."""
        try:
            await self._store.delete(await self._store.get(KIND, name), [Entry("removed")])
        except NotFound:
            return
        except Conflict:
            await self.remove(name)

    async def all(self) -> list[User]:
        """Return the users that were kept."""
        return [User.model_validate({**one.body, "name": one.id}) for one in await self._store.find(KIND)]
