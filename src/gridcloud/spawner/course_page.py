"""The page of who teaches a course: who of it works now, which seats are free, what it has cost; it ends sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from jupyterhub import orm
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_path_join
from tornado import web
from tornado.httputil import url_concat

from gridcloud.errors import GridcloudError, NotFound
from gridcloud.profiles.folders import folders_of
from gridcloud.service.course_documents import CourseState
from gridcloud.sessions.model import Session
from gridcloud.settings.profiles import CourseSettings
from gridcloud.spawner.desk import Desk, the_desk

__all__ = ["CourseHandler", "CoursesHandler", "rows_of", "taught_by"]

PATIENCE = 5.0
"""Seconds that a page waits for a service that is being started again."""


def taught_by(courses: Mapping[str, CourseSettings], user: str, admin: bool) -> dict[str, CourseSettings]:
    """Return the courses that somebody teaches, by name; an administrator sees all."""
    return {name: course for name, course in courses.items() if admin or user in course.teachers}


class _TeachersHandler(BaseHandler):
    # What a session's own token may do is no matter of its teacher: who comes here has logged in with a browser.
    _accept_token_auth = False

    def _taught(self) -> dict[str, CourseSettings]:
        user = self.current_user
        return taught_by(the_desk().settings().courses, user.name, bool(user.admin))

    def _course(self, name: str) -> CourseSettings:
        """Return a course that is taught by who asks. Raises 404 for all others, whether there are any or not."""
        course = self._taught().get(name)
        if course is None:
            raise web.HTTPError(404)
        return course

    async def _render(self, template: str, **shown: Any) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template(template, **shown))


class CoursesHandler(_TeachersHandler):
    """``GET /hub/gridcloud/courses``: the courses that one teaches."""

    @web.authenticated
    async def get(self) -> None:
        taught = self._taught()
        if not taught:
            raise web.HTTPError(404)
        await self._render("gridcloud_courses.html", courses=taught)


class CourseHandler(_TeachersHandler):
    """``/hub/gridcloud/courses/NAME``: a course now; a POST with XSRF token ends one of its sessions."""

    @web.authenticated
    async def get(self, name: str) -> None:
        course = self._course(name)
        done = self.get_argument("ended", "")[:200]
        await self._show(name, course, {"done": f"The session of {done} is being ended."} if done else {})

    @web.authenticated
    async def post(self, name: str) -> None:
        course = self._course(name)
        wanted = self.get_body_argument("session", "")
        try:
            state = await the_desk().ask(lambda client: client.course(name), PATIENCE)
            session = next((one for one in state.sessions if one.id == wanted), None)
            if session is None:
                raise NotFound("This session has ended, or is none of this course.")
            await self._end(session)
        except GridcloudError as error:
            self.set_status(503 if error.status >= 500 else error.status)
            await self._show(name, course, {"problem": str(error)})
            return
        self.log.info(
            "%s, who teaches %s, ends the session of %s", self.current_user.name, name, session.owner
        )
        page = url_path_join(self.hub.base_url, "gridcloud/courses", name)
        self.redirect(url_concat(page, {"ended": session.owner}), status=303)

    async def _end(self, session: Session) -> None:
        """End a session as its user would, so that the hub knows; one that is only being started by the service."""
        user = self.find_user(session.owner)
        spawners = user.spawners.values() if user is not None else ()
        spawner = next((one for one in spawners if getattr(one, "session_id", "") == session.id), None)
        if user is None or spawner is None or spawner.pending or not spawner.ready:
            await the_desk().ask(lambda client: client.stop_session(session.id), PATIENCE)
            return
        await self.stop_single_user(user, spawner.name)

    async def _show(self, name: str, course: CourseSettings, shown: dict[str, Any]) -> None:
        desk = the_desk()
        try:
            state = await desk.ask(lambda client: client.course(name), PATIENCE)
        except GridcloudError as error:
            self.set_status(503 if error.status >= 500 else error.status)
            shown.setdefault("problem", str(error))
            await self._render("gridcloud_course.html", title=name, course=course, state=None, **shown)
            return
        rows = rows_of(self._members(desk, name, course), state.sessions)
        folders = await asyncio.to_thread(folders_of, desk.settings(), name)
        await self._render(
            "gridcloud_course.html",
            title=name,
            course=course,
            state=state,
            rows=rows,
            working=sum(row["session"] is not None for row in rows),
            free=sum(seat.ready for seat in state.seats),
            coming=sum(not seat.owner and not seat.ready for seat in state.seats),
            taken=sum(bool(seat.owner) for seat in state.seats),
            moment=_moment,
            cost=_cost(state),
            missing=[folder.problem for folder in folders if folder.problem],
            **shown,
        )

    def _members(self, desk: Desk, name: str, course: CourseSettings) -> list[str]:
        """Return who is known to be in a course: by name, by list, or as a user of the hub by group."""
        found = dict.fromkeys(course.roster.users)
        named = {one.casefold() for one in found}
        listed = desk.book.rosters.listed(name, course)
        found |= dict.fromkeys(one for one in sorted(listed) if one not in named)
        if course.roster.groups:
            groups = self.db.query(orm.Group).filter(orm.Group.name.in_(course.roster.groups))
            users = sorted({user.name for group in groups for user in group.users})
            found |= dict.fromkeys(one for one in users if one.casefold() not in listed)
        return list(found)


def rows_of(members: Iterable[str], sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """Return a row for each session, those who work first by name, then for each member who has none."""
    live = sorted(sessions, key=lambda one: (one.owner.casefold(), one.created))
    working = {one.owner.casefold() for one in live}
    rows: list[dict[str, Any]] = [{"member": one.owner, "session": one} for one in live]
    return rows + [{"member": one, "session": None} for one in members if one.casefold() not in working]


def _cost(state: CourseState) -> str:
    """Return what a course has cost, in words."""
    if state.spent is None:
        return ""
    words = f"{state.spent:.2f} {state.currency}"
    words += f", of which {state.waited:.2f} for seats that nobody took" if state.waited else ""
    return words + (f", and {state.unpriced} machines whose price is not known" if state.unpriced else "")


def _moment(when: datetime | None) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC") if when else ""
