"""The verbs for the configuration of a service, for administrators."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from gridcloud.client.wire import Wire
from gridcloud.service.configuration_documents import (
    ConfigurationState,
    CourseMembers,
    Edit,
    EditOrder,
    Revisions,
    RevisionText,
    RollBackOrder,
    TextOrder,
    Verdict,
    Written,
)

__all__ = ["Configuration"]


class Configuration:
    """The configuration file and its history. Every method raises GridcloudError."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def get(self) -> ConfigurationState:
        """Return the file as it is now."""
        return await self._wire.ask("GET", "/configuration", ConfigurationState)

    async def check(self, text: str) -> Verdict:
        """Tell what is wrong with a text; nothing is written."""
        return await self._wire.ask("POST", "/configuration/check", Verdict, TextOrder(text=text))

    async def write(self, text: str, *, since: str | None = None, what: str = "", by: str = "") -> Written:
        """Put a text in the place of the file's, once it is checked.

        ``since``: digest of the text that it was made from. Raises InvalidSettings; Conflict where the file says
        something else, with the difference in ``details["changes"]``.
        """
        order = TextOrder(text=text, since=since, what=what[:200], by=by)
        return await self._wire.ask("POST", "/configuration", Written, order)

    async def edit(
        self, edits: Sequence[Edit], *, since: str | None = None, what: str = "", by: str = ""
    ) -> Written:
        """Change single values, all or none. Raises NotFound, Conflict, InvalidSettings."""
        order = EditOrder(edits=list(edits), since=since, what=what[:200], by=by)
        return await self._wire.ask("POST", "/configuration/edits", Written, order)

    async def history(self) -> Revisions:
        """Return the texts that are kept, the newest first."""
        return await self._wire.ask("GET", "/configuration/history", Revisions)

    async def revision(self, number: int) -> RevisionText:
        """Return one of them, with what it changed. Raises NotFound."""
        return await self._wire.ask("GET", f"/configuration/history/{number}", RevisionText)

    async def roll_back(self, number: int, *, since: str | None = None, by: str = "") -> Written:
        """Write an earlier text again, once it is checked. Raises NotFound, InvalidSettings, Conflict."""
        order = RollBackOrder(number=number, since=since, by=by)
        return await self._wire.ask("POST", "/configuration/rollback", Written, order)

    async def members(self, course: str) -> CourseMembers:
        """Return who is in a course. Raises NotFound."""
        return await self._wire.ask(
            "GET", f"/configuration/courses/{quote(course, safe='')}/members", CourseMembers
        )
