"""Pages that the hub has beside its own: what is free now, for the spawn page."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from tornado import web

from gridcloud.errors import GridcloudError
from gridcloud.spawner.desk import the_desk
from gridcloud.spawner.form import free_now

__all__ = ["HANDLERS", "OffersHandler"]


class OffersHandler(BaseHandler):
    """``POST /hub/gridcloud/offers``: a row per provider, for users who are logged in; with XSRF token, as any POST."""

    @web.authenticated
    async def post(self) -> None:
        try:
            self.finish({"offers": await free_now(the_desk())})
        except GridcloudError as error:
            self.set_status(503)
            self.finish({"offers": [], "problem": error.message})


HANDLERS = [(r"/gridcloud/offers", OffersHandler)]
