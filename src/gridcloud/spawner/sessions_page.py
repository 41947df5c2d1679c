"""The page of all sessions: who runs what where, for how much, why what failed did, and a button that stops one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_path_join
from tornado import web

from gridcloud.client import AsyncClient
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.service.operation_documents import Overview
from gridcloud.spawner.desk import the_desk

__all__ = ["SessionHandler", "SessionsHandler"]

PATIENCE = 5.0
"""Seconds that a page waits for a service that is being started again."""

ROWS = 50

STEPS = 500
"""Steps of a session on its page, the last ones."""

SHOWN = ("live", "running", "starting", "ending", "failed", "ended", "all")

FILTERS = ("show", "text", "provider", "service")

LONGEST = 200
"""Characters that are looked for."""


class _Administrators(BaseHandler):
    """Lets in nobody but administrators: what others run, and what it said last, is nobody else's business."""

    def let_in(self) -> None:
        """Raise 403 for whoever is none."""
        if not getattr(self.current_user, "admin", False):
            raise web.HTTPError(403)

    async def show(self, template: str, shown: dict[str, Any]) -> None:
        """Send a page."""
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template(template, moment=_moment, lasting=_lasting, **shown))


class SessionsHandler(_Administrators):
    """``/hub/gridcloud/sessions``: a page of sessions; ``POST`` with XSRF token stops one."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        """Show the sessions that ``?show=…&text=…&provider=…&service=…&page=…`` looks for."""
        self.let_in()
        stopped = self.get_argument("stopped", "")[:LONGEST]
        await self._show({"done": f"{stopped} is being stopped." if stopped else ""})

    @web.authenticated
    @needs_scope("admin-ui")
    async def post(self) -> None:
        """Stop a session, and show the page that it was on."""
        self.let_in()
        id_ = self.get_body_argument("stop", "")[:LONGEST]
        try:
            if not id_:
                raise InvalidRequest("It is not said which session is to be stopped.")
            client = await the_desk().client(PATIENCE)
            session = await client.session(id_)
            await client.stop_session(session.id)
        except GridcloudError as error:
            self.set_status(error.status)
            await self._show({"problem": error.message})
            return
        self.log.info("%s stops session %s of %s", self.current_user.name, session.id, session.owner)
        place = url_path_join(self.hub.base_url, "gridcloud/sessions")
        self.redirect(f"{place}?{urlencode({**self._asked(), 'stopped': session.id})}", status=303)

    def _asked(self) -> dict[str, str]:
        asked = {name: self.get_argument(name, "")[:LONGEST] for name in (*FILTERS, "page")}
        if asked["show"] not in SHOWN:
            asked["show"] = "live"
        asked["page"] = (
            str(int(asked["page"][:6])) if asked["page"].isascii() and asked["page"].isdecimal() else "1"
        )
        return asked

    async def _show(self, shown: dict[str, Any]) -> None:
        asked = self._asked()

        async def look(client: AsyncClient) -> Overview:
            sought = {name: asked[name] for name in FILTERS}
            return await client.operations.sessions(page=max(1, int(asked["page"])), size=ROWS, **sought)

        overview: Overview | None = None
        try:
            overview = await the_desk().ask(look, PATIENCE)
        except GridcloudError as error:
            self.set_status(503 if error.status >= 500 else error.status)
            shown.setdefault("problem", error.message)
        await self.show(
            "gridcloud_sessions.html",
            {
                **shown,
                "asked": asked,
                "overview": overview,
                "choices": SHOWN,
                "pages": _pages(overview.page, overview.pages) if overview else (),
                "link": lambda **changes: "?" + urlencode({**asked, "page": "1", **changes}),
            },
        )


class SessionHandler(_Administrators):
    """``GET /hub/gridcloud/sessions/ID``: one session with its steps and last words."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self, session_id: str) -> None:
        self.let_in()
        shown: dict[str, Any] = {"id": session_id, "session": None}
        try:
            client = await the_desk().client(PATIENCE)
            shown["session"] = await client.session(session_id)
            events = [event async for event in client.session_events(session_id)]
            shown |= {"steps": events[-STEPS:], "left_out": max(0, len(events) - STEPS)}
            shown["refusals"] = [
                f"{offer.get('provider', '?')}: {offer['why_not']}"
                for event in events
                for offer in event.data.get("offers", ())
                if isinstance(offer, dict) and offer.get("why_not")
            ][-STEPS:]
        except GridcloudError as error:
            self.set_status(503 if error.status >= 500 else error.status)
            shown["problem"] = error.message
        await self.show("gridcloud_session.html", shown)


def _pages(page: int, pages: int) -> Sequence[int]:
    """Return the pages to link: the first, the last and those about this one; 0 where some are left out."""
    near = sorted({1, pages, *(one for one in range(page - 2, page + 3) if 1 <= one <= pages)})
    shown: list[int] = []
    for one in near:
        if shown and one > shown[-1] + 1:
            shown.append(0)
        shown.append(one)
    return shown


def _moment(when: datetime | None) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _lasting(since: datetime | None, until: datetime | None) -> str:
    """Return how long something took, in words."""
    if since is None or until is None:
        return ""
    seconds = max(0, int((until - since).total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"
