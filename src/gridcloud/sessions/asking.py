"""What is asked of the servers of sessions: whether they are used, and to have what is open saved before an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from gridcloud.connections.programs import Program
from gridcloud.errors import GridcloudError
from gridcloud.instances.farewell import Setting
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance
from gridcloud.sessions.model import Session, State
from gridcloud.sessions.places import find_home
from gridcloud.sessions.saving import save_pages
from gridcloud.sessions.use import TOKEN, find_token, jupyter_use
from gridcloud.store.lives import Lives

__all__ = ["Asking"]


class Asking:
    """Asks the servers of one runner's sessions, each with the token that it was given at its start."""

    def __init__(
        self, lives: Lives[Session], links: Links, environments: Mapping[str, Mapping[str, str]]
    ) -> None:
        """``environments``: those of sessions that have not ended, by their ids, as far as they are known."""
        self._lives = lives
        self._links = links
        self._environments = environments
        self._tokens: dict[str, str] = {}
        """Read again from programs that outlived us; never stored."""
        self._watched: dict[str, asyncio.Event] = {}
        """Of sessions whose pages can be asked; set once they were."""

    def begin(self, session_id: str) -> None:
        """Count a session whose tunnels are open among those whose pages can be asked."""
        self._watched.setdefault(session_id, asyncio.Event())

    def forget(self, session_id: str) -> None:
        """Let go of what is known of a session, and keep nobody waiting for it."""
        self._tokens.pop(session_id, None)
        if (watched := self._watched.pop(session_id, None)) is not None:
            watched.set()

    async def on(self, instance: Instance) -> list[Session]:
        """Return the sessions that live on an instance."""
        return [one for one in await self._lives.live(instance.owner) if one.instance_id == instance.id]

    async def describe_use(self, instance: Instance) -> str | None:
        """Return how an instance's sessions are used, in words; nothing where they are not or there is none, None
        where that cannot be told."""
        told: str | None = ""
        for session in await self.on(instance):
            use = await self._use(session, instance)
            if use:
                return use
            told = told if use == "" else None
        return told

    async def part(self, instance: Instance) -> Setting | None:
        """Return in what setting a command is run before the end of an instance: that of its session, once what is
        open in the session's pages was saved."""
        for session in await self.on(instance):
            if session.state is State.RUNNING and (watched := self._watched.get(session.id)) is not None:
                await watched.wait()
            directory = session.plan.directory
            if not directory and instance.address is not None:
                directory = await find_home(await self._links.get(instance.id, instance.address), instance)
            return Setting(dict(self._environments.get(session.id, {})), directory)
        return None

    async def have_saved(self, session: Session, instance: Instance) -> None:
        """Have the pages of a running session save what they hold, while they still reach it; once."""
        watched = self._watched.get(session.id)
        if watched is None or watched.is_set():
            return
        try:
            if session.endpoint is not None and session.program is not None:
                token = await self._token(session, session.program, instance)
                told = await save_pages(session.endpoint, session.plan.probe, token) if token else ""
                if told:
                    await self._lives.tell(session, "saved", told)
        finally:
            watched.set()

    async def _use(self, session: Session, instance: Instance) -> str | None:
        if session.state is not State.RUNNING or session.endpoint is None or session.program is None:
            return "a session begins or ends"
        token = await self._token(session, session.program, instance)
        return await jupyter_use(session.endpoint, session.plan.probe, token) if token else None

    async def _token(self, session: Session, program: Program, instance: Instance) -> str:
        """Return the token that a session's server was given; empty where it is not to be had."""
        environment = self._environments.get(session.id, {})
        token = environment.get(TOKEN, "") or self._tokens.get(session.id, "")
        if not token and instance.address is not None:
            with contextlib.suppress(GridcloudError, TimeoutError):
                connection = await self._links.get(instance.id, instance.address)
                token = self._tokens[session.id] = await find_token(connection, program)
        return token
