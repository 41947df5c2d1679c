"""Pages that the hub has beside its own: what is free now, for the spawn page; when sessions end, for those in them."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from gridcloud.errors import GridcloudError
from gridcloud.spawner.desk import the_desk
from gridcloud.spawner.form import free_now
from gridcloud.spawner.notes import endings_for

__all__ = ["HANDLERS", "NotesHandler", "OffersHandler"]


class OffersHandler(BaseHandler):
    """``POST /hub/gridcloud/offers``: a row per provider, for users who are logged in; with XSRF token, as any POST."""

    @web.authenticated
    async def post(self) -> None:
        try:
            self.finish({"offers": await free_now(the_desk())})
        except GridcloudError as error:
            self.set_status(503)
            self.finish({"offers": [], "problem": error.message})


class NotesHandler(BaseHandler):
    """``GET /hub/gridcloud/notes``: when the asking user's own sessions end, each with the path of its pages."""

    async def get(self) -> None:
        user = self.current_user
        if user is None:  # whoever asks is a program: it is sent to no login page
            raise web.HTTPError(403)
        self.set_header("Cache-Control", "no-store")
        endings = endings_for(the_desk(), user.name)
        self.finish(
            {
                "sessions": [
                    {"path": url_path_join(user.base_url, url_escape_path(server), "/"), **ending}
                    for server, ending in endings.items()
                ]
            }
        )


HANDLERS = [(r"/gridcloud/notes", NotesHandler), (r"/gridcloud/offers", OffersHandler)]
