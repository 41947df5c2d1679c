"""Pages that the hub has beside its own: what is free now, when sessions end, and the grid of institutions."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from gridcloud.errors import GridcloudError
from gridcloud.spawner.callbacks import BatchPortHandler
from gridcloud.spawner.configuration_page import ConfigurationHandler
from gridcloud.spawner.course_page import CourseHandler, CoursesHandler
from gridcloud.spawner.desk import the_desk
from gridcloud.spawner.extending import ExtendHandler
from gridcloud.spawner.form import free_now
from gridcloud.spawner.grid_page import look_at_grid
from gridcloud.spawner.health_pages import AliveHandler, FiguresHandler, ReadyHandler
from gridcloud.spawner.notes import endings_for
from gridcloud.spawner.others import OthersHandler
from gridcloud.spawner.sessions_page import SessionHandler, SessionsHandler

__all__ = ["HANDLERS", "GridHandler", "NotesHandler", "OffersHandler"]

PATIENCE = 5.0
"""Seconds that a page waits for a service that is being started again."""


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


class GridHandler(BaseHandler):
    """``GET /hub/gridcloud/grid``: the grid of institutions, for the hub's administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        try:
            shown = await the_desk().ask(look_at_grid, PATIENCE)
        except GridcloudError as error:
            self.set_status(503)
            shown = {"problem": str(error)}
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template("gridcloud_grid.html", **shown))


HANDLERS = [
    (r"/api/batchspawner", BatchPortHandler),
    (r"/api/gridcloud/others", OthersHandler),
    (r"/api/gridcloud/users/([^/]+)/server/extend", ExtendHandler),
    (r"/api/gridcloud/users/([^/]+)/servers/([^/]+)/extend", ExtendHandler),
    (r"/gridcloud/configuration", ConfigurationHandler),
    (r"/gridcloud/courses", CoursesHandler),
    (r"/gridcloud/courses/([a-z0-9][a-z0-9._-]{0,62})", CourseHandler),
    (r"/gridcloud/grid", GridHandler),
    (r"/gridcloud/health/live", AliveHandler),
    (r"/gridcloud/health/ready", ReadyHandler),
    (r"/gridcloud/metrics", FiguresHandler),
    (r"/gridcloud/notes", NotesHandler),
    (r"/gridcloud/offers", OffersHandler),
    (r"/gridcloud/sessions", SessionsHandler),
    (r"/gridcloud/sessions/([A-Za-z0-9-]{1,64})", SessionHandler),
]
