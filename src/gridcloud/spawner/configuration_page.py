"""The administrators' page of the configuration: look, check, save, go back. It works without scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_path_join
from tornado import web

from gridcloud.client import AsyncClient
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.service.configuration_documents import FaultLine
from gridcloud.spawner.desk import the_desk

__all__ = ["ConfigurationHandler", "explain"]

PATIENCE = 5.0
"""Seconds that a page waits for a service that is being started again."""

SHOWN = 50
"""Texts of the history on the page; `gridcloud config history` lists all."""


class ConfigurationHandler(BaseHandler):
    """``/hub/gridcloud/configuration``, for users who are administrators; changes are POSTs with XSRF token."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        """Show the file, or with ``?change=NUMBER`` what one change changed as well."""
        self._let_in()
        number = self.get_argument("change", "")
        done = self.get_argument("saved", "")
        shown: dict[str, Any] = {}
        if done.isdecimal():
            shown["done"] = f"Saved as {int(done[:9])}. It counts from the next start on."
        await self._show(shown, number=int(number[:9]) if number.isdecimal() else 0)

    @web.authenticated
    @needs_scope("admin-ui")
    async def post(self) -> None:
        """Check or save the text that was sent, or go back to an earlier one."""
        self._let_in()
        action = self.get_body_argument("action", "check")
        text = self.get_body_argument("text", "", strip=False).replace("\r\n", "\n")
        since = self.get_body_argument("since", "") or None
        what = self.get_body_argument("what", "")[:200]
        shown: dict[str, Any] = {"typed": text, "since": since, "what": what}
        try:
            client = await the_desk().client(PATIENCE)
            if action == "check":
                verdict = await client.configuration.check(text)
                shown |= {"faults": explain(verdict.faults, text), "warnings": verdict.warnings}
                shown["done"] = "" if verdict.faults else "This text is valid. Nothing was written yet."
            else:
                saved = await self._change(client, action, text, since, what)
                place = url_path_join(self.hub.base_url, "gridcloud/configuration")
                self.redirect(f"{place}?saved={saved}" if saved else place, status=303)
                return
        except Conflict as error:
            self.set_status(409)
            shown |= {"conflict": error, "since": error.details.get("digest", "")}
        except InvalidSettings as error:
            self.set_status(422)
            faults = [FaultLine.model_validate(one) for one in error.details.get("faults", ())]
            shown["faults"] = explain(faults, text)
            if not faults:
                shown["problem"] = str(error)
        except GridcloudError as error:
            self.set_status(error.status)
            shown["problem"] = str(error)
        if action == "rollback":  # what was sent has no text
            shown = {key: shown[key] for key in ("conflict", "problem", "faults") if key in shown}
        await self._show(shown)

    async def _change(self, client: AsyncClient, action: str, text: str, since: str | None, what: str) -> int:
        by = self.current_user.name
        if since is None:
            raise InvalidRequest(
                "It is not said which text this was made from.", remedy="Load the page again."
            )
        if action == "save":
            written = await client.configuration.write(text, since=since, what=what, by=by)
        elif action == "rollback":
            number = self.get_body_argument("number", "")
            if not number.isdecimal():
                raise InvalidRequest("Say which text to go back to.")
            written = await client.configuration.roll_back(int(number[:9]), since=since, by=by)
        else:
            raise InvalidRequest("What can be done is check, save and rollback.")
        return written.number

    async def _show(self, shown: dict[str, Any], number: int = 0) -> None:
        try:
            client = await the_desk().client(PATIENCE)
            state = await client.configuration.get()
            kept = (await client.configuration.history()).revisions
            change = await client.configuration.revision(number) if number else None
        except GridcloudError as error:
            self.set_status(503 if error.status >= 500 else error.status)
            shown.setdefault("problem", str(error))
            shown |= {"state": None}
        else:
            text = shown.get("typed", state.text)
            shown.setdefault("faults", explain(state.faults, state.text))
            shown.setdefault("warnings", state.warnings)
            shown |= {
                "state": state,
                "text": text,
                "since": shown.get("since") or state.digest,
                "revisions": kept[:SHOWN],
                "left_out": max(0, len(kept) - SHOWN),
                "change": change,
                "rows": min(40, max(15, text.count("\n") + 2)),
                "moment": _moment,
            }
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template("gridcloud_configuration.html", **shown))

    def _let_in(self) -> None:
        """Let in nobody but administrators: who changes the configuration may have programs run as the service."""
        if not getattr(self.current_user, "admin", False):
            raise web.HTTPError(403)


def explain(faults: Sequence[FaultLine], text: str) -> list[dict[str, Any]]:
    """Return faults with the line of the text that each is about, where it is in the text."""
    lines = text.splitlines()
    found = []
    for fault in faults:
        numbers = re.search(r":(\d+):(\d+)$", fault.place)
        line = int(numbers[1]) if numbers else 0
        found.append(
            {
                "place": f"line {line}" if line else fault.place,
                "key": fault.key,
                "message": fault.message,
                "text": lines[line - 1][:200] if 0 < line <= len(lines) else "",
            }
        )
    return found


def _moment(when: datetime | None) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC") if when else ""
