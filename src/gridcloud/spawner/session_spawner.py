"""Starts the sessions of a hub's users through gridcloud: thin, for the service owns everything that lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from jupyterhub.orm import APIToken
from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import maybe_future, url_escape_path, url_path_join
from traitlets import default

from gridcloud.connections.model import Port
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, InvalidSettings, NotFound, Unavailable
from gridcloud.hooks.model import Outcome
from gridcloud.instances.idleness import idle_end
from gridcloud.instances.model import Instance
from gridcloud.profiles import Choice
from gridcloud.sessions.model import FINAL, Plan, Session, State
from gridcloud.settings import Settings
from gridcloud.spawner.apps import app_environment, app_files
from gridcloud.spawner.apps.builtin import DASK_LINK
from gridcloud.spawner.before import run_hooks
from gridcloud.spawner.desk import Desk, the_desk
from gridcloud.spawner.extending import longest_of
from gridcloud.spawner.form import render_form
from gridcloud.spawner.lab import lab_files
from gridcloud.spawner.login import Login, login_of
from gridcloud.spawner.mounts import mounting_keys, with_mounts
from gridcloud.spawner.options import Asked, from_form, person_of, read_options
from gridcloud.spawner.steps import Steps
from gridcloud.spawner.wrapped import HOOK_REFUSED, Wrapped

__all__ = ["GridcloudSpawner", "Refused"]

STOPPING = 60.0
"""Seconds to wait for a session to be gone before its stop counts as done; it goes on in the service."""

Noted = TypeVar("Noted")

WARNED = ("session", "warning")
"""Kind and type of the events that tell what is not well with a session that starts all the same."""

NOT_USED = "Nothing is done in your session. It goes on when you use it."

ALLOW_ROOT = "--ServerApp.allow_root=True"
"""The driver decides whose account a session runs as; Jupyter's own objection to root is for those who cannot."""

SHUT_KERNELS = "--ConnectionFileMixin.transport=ipc"
"""On a port, a kernel tells its output to every account of the machine that asks."""

FULL_HOME = {"IPYTHONDIR": "/dev/null/ipython"}
"""No folder can be there. Where there is one of IPython's, jupyter_core notes in the home that it has seen it, and no
server starts that cannot; IPython itself takes a folder for the time being then, and says so."""


class Refused(SpawnException):
    """Why a session was not started, in words for its user."""

    def __init__(self, error: GridcloudError) -> None:
        status = 400 if error.status == 422 else error.status
        super().__init__(str(error), reason=type(error).__name__, status_code=status)
        self.jupyterhub_message = str(error)


class GridcloudSpawner(Spawner):
    """One user's server as a session. Its only state is the session's id, or that of another spawner."""

    session_id = ""
    profile = ""
    """The profile that it was started from."""
    wrapped: Wrapped | None = None
    """The other spawner that starts it, where its profile names one."""
    login = Login()
    """What its user's login told."""
    typed: Mapping[str, list[Any]] | None = None
    """What was sent with a form that could not be taken, for the form to show again."""
    _recovered = False
    _warning = ""
    """What its start was warned of."""
    _unknown: dict[str, Any] = {}  # noqa: RUF012 - never changed in place
    """The state of a session whose spawner is there no more."""
    _left: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed in place
    """What other spawners' sessions left when they ended, by profile: what deletes a volume, say."""
    failed_to_stop = False
    _told: asyncio.Event | None = None

    @property
    def desk(self) -> Desk:
        """What the spawners of this hub share."""
        return the_desk()

    @default("env_keep")
    def _env_keep(self) -> list[str]:
        return ["LANG", "LC_ALL"]

    @default("apply_user_options")
    def _apply_user_options(self) -> Any:
        return lambda spawner, options: None  # `start` reads them

    @default("options_form")
    def _options_form(self) -> Any:
        return render_form

    # State -----------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return what finds the session again after the hub's restart."""
        state: dict[str, Any] = super().get_state()
        own = {"session": self.session_id, "profile": self.profile}
        state |= {name: value for name, value in own.items() if value}
        state |= {"left": self._left} if self._left else {}
        return state | ({"wrapped": self.wrapped.get_state()} if self.wrapped else self._unknown)

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a session that outlived its hub."""
        super().load_state(state)
        self.session_id = str(state.get("session", ""))
        self.profile = str(state.get("profile", ""))
        self._left = dict(state.get("left") or {})
        self._recovered = True
        if inner := state.get("wrapped"):
            try:
                self.wrapped = Wrapped.of_state(self, inner)
            except Exception as error:
                self.log.error("%s: its session cannot be looked after: %s", self._log_name, error)
                self._unknown = {"wrapped": inner}

    def clear_state(self) -> None:
        """Forget the session, but not what another spawner's has left."""
        super().clear_state()
        if over := self.wrapped.get_state() if self.wrapped else self._unknown.get("wrapped"):
            self._left = {**self._left, self.profile: over}
        self.session_id = self.profile = self._warning = ""
        self.wrapped = None
        self._unknown = {}
        self._recovered = False
        self._told = asyncio.Event()
        self.desk.expires.pop(self._key, None)
        self.desk.notices.pop(self._key, None)

    # Options ---------------------------------------------------------------------------------------------------

    async def run_auth_state_hook(self, auth_state: dict[str, Any] | None) -> None:
        """Know what the user's login told: JupyterHub says so before it shows the form, and before each start."""
        self.login = login_of(auth_state, self.desk.settings().hub)
        await super().run_auth_state_hook(auth_state)

    def get_env(self) -> dict[str, str]:
        """Return the session's environment, with what of its user's login is to be there."""
        environment: dict[str, str] = super().get_env()
        environment[DASK_LINK] = f"{urlsplit(self.server.base_url).path}proxy/{{port}}/status"
        return environment | dict(self.login.environment)

    async def run_options_from_form(self, form_data: dict[str, list[Any]]) -> dict[str, Any]:
        """Return the options of a sent form. Raises Refused."""
        # The page may have been shown by a hub before this one.
        self.login = login_of(await self.user.get_auth_state(), self.desk.settings().hub)
        return self._options_of(form_data)

    def _options_of(self, form_data: dict[str, list[Any]]) -> dict[str, Any]:
        self.typed = form_data
        try:
            options = from_form(form_data, self.choices())
            self._read(options)
            return options
        except GridcloudError as error:
            raise Refused(error) from None

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        """Raise Refused: a link may fill in the form, but only its user starts anything."""
        self._options_of(query_data)
        raise Refused(InvalidRequest("The link filled in the form below. Check it, then press Start."))

    # Life ------------------------------------------------------------------------------------------------------

    async def start(self) -> Any:
        """Return where the session answers. Raises Refused; cancelled, it leaves nothing."""
        self.typed = None
        self.desk.ended.pop(self._key, None)
        told = self._told = self._told or asyncio.Event()
        try:
            await self.desk.learn()
            asked = self._read(self.user_options)
            self.profile = asked.profile
            prepared = await run_hooks(self, asked.profile)
            try:
                return await self._start(asked, prepared.outcome, told)
            except BaseException:
                await asyncio.shield(prepared.undo())
                raise
        except GridcloudError as error:
            raise Refused(error) from error

    async def poll(self) -> int | None:
        """Return None while the session lives, else 0, or 1 when it ended by itself."""
        if self.wrapped is not None:
            return await self.wrapped.poll()
        if not self.session_id:
            return None if self._unknown else 0
        try:
            client = await self.desk.client(patience=5)
            session = await client.session(self.session_id)
        except NotFound:
            return 0
        except GridcloudError as error:
            self.log.info("session %s: nobody to ask: %s", self.session_id, error)
            return None
        if session.state is State.RUNNING:
            await self._note_expiry(session)
            return None
        if session.state in (State.PLACING, State.LAUNCHING):
            if not self._recovered:
                return None
            # Its hub died while it was being started: nobody waits for it any more.
            await client.stop_session(self.session_id)
            return 0
        self._note_end(session)
        return 0 if session.state in (State.ENDING, State.ENDED) else 1

    async def get_url(self) -> str:
        """Return where the session answers now: a hub that died while it was being started never learned that."""
        if self.wrapped is not None:
            return str(await maybe_future(self.wrapped.spawner.get_url()))
        url: str = await super().get_url()
        if not self.session_id:
            return url
        try:
            session = await (await self.desk.client(patience=5)).session(self.session_id)
        except GridcloudError:
            return url
        if session.endpoint is None:
            return url
        return f"http://{session.endpoint.host}:{session.endpoint.port}{urlsplit(url).path}"

    async def stop(self, now: bool = False) -> None:
        """End the session with its instance; return when nothing is left of it, or it takes long."""
        if self._unknown:
            self.failed_to_stop = True
            name = self._unknown["wrapped"]["class"]
            raise Refused(
                Unavailable(f"{name}, which started this session, is not there any more: it may still run.")
            )
        if self.wrapped is not None:
            await self._stop_wrapped(self.wrapped, now)
            return
        if not self.session_id:
            return
        with contextlib.suppress(NotFound):
            await self._stop_soon(self.session_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5 if now else STOPPING):
                    await self._ended()

    def run_post_stop_hook(self) -> Any:
        """Revoke the token of the session that has ended: JupyterHub forgets it when it is itself restarted."""
        database = self.user.db
        note = f"Server at {url_path_join(self.user.base_url, url_escape_path(self.name), '/')}"
        for token in database.query(APIToken).filter_by(user_id=self.user.orm_user.id, note=note):
            database.delete(token)
        database.commit()
        return self._after_stop()

    async def run_pre_spawn_hook(self) -> None:
        """Run the hub's own hook. Raises Refused when it returns False: JupyterHub would start all the same.

        Another spawner runs its own, for which what is configured for all spawners counts, too.
        """
        if self._has_others_hook("pre_spawn_hook"):
            return
        if await maybe_future(super().run_pre_spawn_hook()) is False:
            raise Refused(Forbidden(HOOK_REFUSED))

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the live steps of a pending start."""
        told = self._told = self._told or asyncio.Event()
        await told.wait()
        if self.wrapped is not None:
            async for step in self.wrapped.progress():
                yield step
            return
        steps = Steps()
        client = await self.desk.client()
        async for event in client.session_events(self.session_id, follow=True):
            for step in steps.of(event):
                yield step

    # ----------------------------------------------------------------------------------------------------------

    @property
    def of_another(self) -> bool:
        """Whether another spawner has started the session."""
        return self.wrapped is not None or bool(self._unknown)

    @property
    def _key(self) -> tuple[str, str]:
        return self.user.name, self.name

    def choices(self) -> dict[str, Choice]:
        """Return by name the profiles that the user may use now."""
        return self.desk.book.choices(person_of(self.user, self.login))

    def known(self) -> dict[str, str]:
        """Return what placeholders stand for."""
        return self.desk.known | {
            "JUPYTERHUB_USER": self.user.name,
            "JUPYTERHUB_SERVER_NAME": self.name,
            "JUPYTERHUB_BASE_URL": self.hub.base_url,
            "JUPYTERHUB_HOST": self.hub.public_host,
        }

    def _read(self, options: Mapping[str, Any]) -> Asked:
        """Return what the user's options come to. Raises GridcloudError."""
        others = [one for one in self.user.spawners.values() if one is not self and one.active]
        running = Counter(getattr(one, "profile", "") for one in others)
        return read_options(
            options, self.desk.settings(), self.choices(), running=running, known=self.known()
        )

    async def _start(self, asked: Asked, given: Outcome, told: asyncio.Event) -> Any:
        """Start what was asked for, with what the hooks give; return where it answers."""
        if asked.spawner is not None:
            if given.mounts:
                raise InvalidSettings("Folders of file servers are for sessions of gridcloud's own spawner.")
            self.wrapped = Wrapped(self, asked.spawner, asked.environment)
            told.set()
            self._keep_state()
            before = self._left.get(asked.profile, {})
            left = before.get("state") if before.get("class") == asked.spawner.class_ else None
            return await self.wrapped.start(
                self, asked.fields, given.environment, left=left, keep=self._keep_state
            )
        session = await self._submit(asked, given)
        self.session_id = session.id
        self._keep_state()
        told.set()
        endpoint = await self._wait()
        self._warning = await self._warned_of()
        await self._note_expiry(session)
        return endpoint.host, endpoint.port

    async def _stop_wrapped(self, wrapped: Wrapped, now: bool) -> None:
        try:
            await wrapped.stop(now)
        except Exception:  # whatever another's code raises: noted here, and told by JupyterHub
            self.failed_to_stop = True
            raise

    async def _after_stop(self) -> None:
        if self.wrapped is not None:
            await self.wrapped.ended()
        if not self._has_others_hook("post_stop_hook"):
            await maybe_future(super().run_post_stop_hook())

    async def delete_forever(self) -> None:
        """Have other spawners delete what outlives their sessions, when the user or a named server is deleted."""
        for profile, state in self._left.items():
            try:
                await Wrapped.of_state(self, state).delete_forever()
            except Exception as error:
                self.log.error("%s: what %s has left: %s", self._log_name, profile, error)
        self._left = {}

    def _has_others_hook(self, name: str) -> bool:
        """Whether a hook is another spawner's to run; one that is configured for this class is not."""
        if name in self.config.GridcloudSpawner:
            return False
        if self.wrapped is not None:
            return True
        try:
            return self._read(self.user_options).spawner is not None
        except GridcloudError:
            return False

    async def _submit(self, asked: Asked, given: Outcome) -> Session:
        """Ask for the session; one asked for by a start that is cancelled meanwhile is stopped."""
        settings = self.desk.settings()
        plan = with_mounts(self._plan(settings), given.mounts)
        environment = self.get_env() | asked.environment | dict(given.environment)
        environment |= mounting_keys(given.mounts)
        longest = 0
        if asked.profile:
            longest = longest_of(self, asked.profile, asked.request, asked.course, datetime.now(UTC))
        asking = asyncio.ensure_future(
            self.desk.ask(
                lambda client: client.start_session(
                    asked.request,
                    plan,
                    owner=self.user.name,
                    name=f"{self.user.name}/{self.name}" if self.name else self.user.name,
                    profile=asked.profile,
                    configure=[*asked.configure, *settings.session.configure(), *asked.added],
                    environment=environment,
                    longest=longest,
                    course=asked.course,
                )
            )
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with contextlib.suppress(GridcloudError):
                await self._stop_soon((await asking).id)
            raise

    async def _wait(self) -> Port:
        """Return where it answers; however this ends otherwise, the session ends."""
        try:
            return await self.desk.ask(lambda client: client.wait_session(self.session_id))
        except BaseException:
            with contextlib.suppress(GridcloudError):
                await asyncio.shield(self._stop_soon(self.session_id))
            raise

    async def _stop_soon(self, session_id: str) -> None:
        await self.desk.ask(lambda client: client.stop_session(session_id))

    async def _ended(self) -> None:
        client = await self.desk.client()
        async for _ in client.session_events(self.session_id, follow=True):
            pass

    def _plan(self, settings: Settings) -> Plan:
        base = urlsplit(self.server.base_url).path
        api = self.hub.base_url.rstrip("/") + "/api"
        user = self.user.escaped_name
        return Plan(
            words=(
                *settings.session.command,
                ALLOW_ROOT,
                *self.get_args(),
            ),
            listening=("--ServerApp.sock={socket}", SHUT_KERNELS),
            files=lab_files() | app_files(settings.apps),
            reading=("--LabServerApp.extra_labextensions_path={files}",),
            environment=app_environment(settings.apps)
            | {
                "JUPYTER_RUNTIME_DIR": "{private}",
                "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:{port}" + base,
                "JUPYTERHUB_API_URL": "http://{hub}" + api,
                "JUPYTERHUB_ACTIVITY_URL": "http://{hub}" + f"{api}/users/{user}/activity",
            },
            full_home=FULL_HOME,
            exposed={"hub": Port(port=self.hub.port)},
            probe=f"{base}api",
        )

    def _keep_state(self) -> None:
        """Store the session's id at once, so that a hub that dies now finds it again."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    async def _note_expiry(self, session: Session) -> None:
        with contextlib.suppress(GridcloudError):
            client = await self.desk.client(patience=5)
            self.note(await client.instance(session.instance_id))

    def note(self, instance: Instance) -> None:
        """Know when the session ends, as its instance is now."""
        self._note(self.desk.expires, self._end_of(instance))
        unused = NOT_USED if self._is_idling(instance) else ""
        self._note(self.desk.notices, instance.notice or unused or self._warning or None)

    async def _warned_of(self) -> str:
        """Return what its start was warned of, for its user to see in the session, too."""
        with contextlib.suppress(GridcloudError):
            client = await self.desk.client(patience=5)
            events = [event async for event in client.session_events(self.session_id)]
            return " ".join(event.message for event in events if (event.kind, event.type) == WARNED)
        return ""

    def _end_of(self, instance: Instance) -> datetime | None:
        ends = [instance.expires, idle_end(instance) if self._is_idling(instance) else None]
        return min((end for end in ends if end is not None), default=None)

    def _is_idling(self, instance: Instance) -> bool:
        """Whether it soon ends for not being used."""
        ends = idle_end(instance)
        warning = min(self.desk.settings().limits.warning, instance.request.idle / 2)
        return ends is not None and ends - datetime.now(UTC) <= timedelta(seconds=warning)

    def _note(self, board: dict[tuple[str, str], Noted], value: Noted | None) -> None:
        if value is None:
            board.pop(self._key, None)
        else:
            board[self._key] = value

    def _note_end(self, session: Session) -> None:
        if session.state in (State.FAILING, *FINAL) and session.reason not in ("asked", "cancelled"):
            self.desk.ended[self._key] = f"Your session has ended: {session.detail or session.reason}"
