"""Extends the sessions of their users: within what the profile allows that a session was started from, as it is now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest
from gridcloud.instances.model import Instance, Request
from gridcloud.profiles.lasting import longest_life
from gridcloud.spawner.login import login_of

__all__ = ["ExtendHandler", "extend", "longest_of"]

PATIENCE = 10.0
"""Seconds to wait for a service that is being started again."""


class ExtendHandler(APIHandler):
    """``POST /hub/api/gridcloud/users/NAME/server/extend``, or ``…/servers/SERVER/extend``: more time for a session.

    Takes ``{"after": "2030-01-01T12:00:00Z"}``, the end that whoever asks was told of, and answers ``{"ends": …}``:
    asked again, from another page say, it changes nothing. Only the session's own user may ask, with a token that
    reaches it, such as JupyterLab's page has: a cookie is no token, for any page can have a browser send it.
    """

    @needs_scope("access:servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user = self.current_user
        if not self._token_authenticated:
            raise web.HTTPError(403, "Only a token extends a session.")
        if getattr(user, "kind", "") != "user" or user.name != user_name:
            raise web.HTTPError(403, "Only its own user extends a session.")
        if server_name not in user.spawners or not user.spawners[server_name].ready:
            raise web.HTTPError(404, "There is no such session.")
        try:
            instance = await extend(user.spawners[server_name], self._after())
        except GridcloudError as error:
            self.set_status(400 if error.status == 422 else error.status)
            self.finish({"message": str(error)})
            return
        self.finish({"ends": instance.expires.isoformat() if instance.expires else None})

    def _after(self) -> datetime | None:
        given = self.get_json_body()
        text = given.get("after") if isinstance(given, dict) and set(given) == {"after"} else 0
        try:
            if text is None:
                return None
            if isinstance(text, str):
                return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise web.HTTPError(400, 'Expected {"after": a time} and nothing else.')


async def extend(spawner: Any, after: datetime | None) -> Instance:
    """Have a user's running session live longer, and return its instance. Raises GridcloudError."""
    if spawner.of_another or not spawner.session_id:
        raise InvalidRequest("This session is another spawner's: it has no end of ours.")
    desk = spawner.desk
    # Which courses a user is in may be known from their login alone, which a hub that was started again has forgotten.
    spawner.login = login_of(await spawner.user.get_auth_state(), desk.settings().hub)
    session = await desk.ask(lambda client: client.session(spawner.session_id), PATIENCE)
    longest = session.longest
    if spawner.profile:
        began = session.started or session.created
        longest = longest_of(spawner, spawner.profile, session.request, session.course, began)
    instance: Instance = await desk.ask(
        lambda client: client.extend_session(session.id, after=after, longest=longest), PATIENCE
    )
    spawner.note(instance)
    return instance


def longest_of(spawner: Any, profile: str, request: Request, course: str, began: datetime) -> int:
    """Return for how many seconds a session of a profile may live in all, 0: as long as anybody's. Raises Forbidden."""
    choice = spawner.choices().get(profile)
    if choice is None:
        settings = spawner.desk.settings().profiles.get(profile)
        title = (settings.title if settings else "") or profile
        raise Forbidden(f"{title!r} is not offered to you any more.", remedy="Save your work.")
    return longest_life(choice, request, course, began)
