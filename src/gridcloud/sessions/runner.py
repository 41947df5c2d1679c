"""Carry sessions through their lives: instance, tunnels, program, and away again.

The tunnels are held here, apart from whoever asked for the session: a hub may die and come back without cutting one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import aiohttp

from gridcloud.clock import Clock
from gridcloud.connections import programs
from gridcloud.connections.driver import Command, Connection, Forward
from gridcloud.connections.model import Endpoint, LocalAddress, Port, Socket
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    NotFound,
    PortTaken,
    Rejected,
    TimedOut,
    Transient,
)
from gridcloud.finishing import whole
from gridcloud.identity.vault import Vault
from gridcloud.instances import runner as instances
from gridcloud.instances.handing import is_waiting
from gridcloud.instances.model import FINAL as INSTANCE_FINAL
from gridcloud.instances.model import Folder, Instance, Reason, Request
from gridcloud.instances.model import State as InstanceState
from gridcloud.instances.paths import find_programs
from gridcloud.sessions.asking import Asking
from gridcloud.sessions.extending import Longer, is_extended, new_expiry
from gridcloud.sessions.folders import place_folders
from gridcloud.sessions.last_words import last_line, last_words
from gridcloud.sessions.lifecycle import Event, step
from gridcloud.sessions.model import FINAL, Plan, Session, State
from gridcloud.sessions.places import find_home, home_problems, place_files, private_socket, remove_socket
from gridcloud.sessions.seating import take_seat
from gridcloud.store import Store
from gridcloud.store.lives import Lives

__all__ = ["Runner"]

log = logging.getLogger(__name__)

TRIES = 5
"""Ports tried before a session fails because others listen on them."""

SETTLED = timedelta(hours=1)
"""Age of secrets that have no session and never will have."""

NOT_FOUND = 127
"""Exit code of a shell that does not find the program."""


class Runner:
    """Owns all sessions of a store."""

    def __init__(
        self,
        store: Store,
        machines: instances.Runner,
        clock: Clock,
        vault: Vault,
        *,
        up: float = 120.0,
        poll: float = 2.0,
        before_end: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``vault`` keeps the environments of sessions: whoever starts again can have them moved. ``before_end`` gives
        the words of the command that is run on a session's machine before its end."""
        self.lives = Lives(store, "session", Session, step, FINAL)
        self.machines = machines
        self.clock = clock
        self._up = up
        self._before_end = before_end
        self._poll = poll
        self._vault = vault
        self._secrets: dict[str, Mapping[str, str]] = {}
        """Of sessions that have not ended."""
        self.asking = Asking(self.lives, machines.links, self._secrets)
        machines.watch.idleness.asked.append(self.asking.describe_use)
        machines.partings.append(self.asking.part)
        self._forwards: dict[str, list[Forward]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._extending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Take up every session that has not ended."""
        # Who shares the store puts secrets there an instant before their session.
        before = self.clock.now() - SETTLED if self.lives.store.keeper else None
        await self._vault.forget_others([session.id for session in await self.lives.live()], before)
        for session in await self.lives.take_up():
            if (environment := await self._vault.get(session.id)) is not None:
                self._secrets[session.id] = environment
            self._carry(session.id)

    async def close(self) -> None:
        """Let go of all tunnels. Programs and instances live on; the next run takes them up."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session_id in list(self._forwards):
            await self._close_forwards(session_id)

    @whole
    async def submit(
        self,
        owner: str,
        request: Request,
        plan: Plan,
        *,
        name: str = "",
        profile: str = "",
        configure: Sequence[dict[str, Any]] = (),
        environment: Mapping[str, str] | None = None,
        longest: int = 0,
        course: str = "",
        folders: Sequence[Folder] = (),
    ) -> Session:
        """Store the wish for a session and start to fulfil it; return at once.

        ``environment`` may hold secrets: it is kept in memory and in the vault until the session has ended. A machine
        that waits for the members of its ``course`` is taken where there is one. It sees ``folders`` in its home.
        """
        session = Session(
            id=self.clock.new_id("s"),
            owner=owner,
            name=name,
            profile=profile,
            request=request,
            plan=plan,
            configure=tuple(configure),
            longest=longest,
            course=course,
            folders=tuple(folders),
            instance_id=self.clock.new_id("i"),
            created=self.clock.now(),
        )
        self._secrets[session.id] = dict(environment or {})
        await self._vault.put(session.id, owner, self._secrets[session.id])
        session = await self.lives.insert(session, "requested", "A machine is being obtained.")
        self._carry(session.id)
        return session

    @whole
    async def stop(self, session_id: str, detail: str = "") -> Session:
        """Have a session end with its instance; return at once. Raises NotFound."""
        session = await self.lives.get(session_id)
        reason = Reason.ASKED if session.state is State.RUNNING else Reason.CANCELLED
        while session.state not in FINAL and session.state not in (State.ENDING, State.FAILING):
            changes: dict[str, Any] = {"reason": reason, "detail": detail or "Stopped as asked."}
            stopped = await self.lives.happen(session, Event.STOP, changes["detail"], **changes)
            if stopped is not None:
                if self.lives.keeps(stopped):
                    self._restart(session_id)
                return stopped
            session = await self.lives.get(session_id)
        return session

    async def heed(self) -> None:
        """End what others who share the store have stopped."""
        for session in await self.lives.heeded((State.ENDING, State.FAILING)):
            self._restart(session.id)

    async def extend(self, session_id: str, wish: Longer) -> Instance:
        """Have a running session live longer, and return its instance with the new end. What was extended already
        since whoever asks was told of its end stays as it is.

        Raises InvalidRequest for one that does not run, or may live no longer; QuotaExceeded where no budget pays.
        """
        async with self._extending.setdefault(session_id, asyncio.Lock()):
            session = await self.lives.get(session_id)
            if session.state is not State.RUNNING:
                raise InvalidRequest(f"Session {session_id} is {session.state}.")
            instance = await self.machines.records.get(session.instance_id)
            if is_extended(instance, wish.after):
                return instance
            expires = new_expiry(instance, wish, self.clock.now())
            if expires is None:
                return await self.machines.renew(instance.id)
            return await self.machines.extend(instance.id, expires)

    async def wait(self, session_id: str) -> Session:
        """Return the session once it answers; raise what kept it from doing so."""
        async for session in self.lives.follow(session_id):
            if session.state is State.RUNNING:
                return session
            if session.state in (State.ENDING, State.FAILING) or session.state in FINAL:
                raise await self.failure(session)
        raise NotFound(f"There is no session {session_id!r}.")

    async def failure(self, session: Session) -> GridcloudError:
        """Return the error that tells why a session ended."""
        try:
            instance = await self.machines.records.get(session.instance_id)
        except NotFound:
            return Rejected(f"The session has ended ({session.reason}): {session.detail}")
        if instance.reason in (Reason.NO_OFFER, Reason.CONFIGURATION):
            return self.machines.failure(instance)
        words = session.detail + (f"\n{session.log}" if session.log else "")
        return Rejected(f"The session has ended ({session.reason or session.state}): {words}")

    # One life ------------------------------------------------------------------------------------------------

    def _carry(self, session_id: str) -> None:
        task = self._tasks.get(session_id)
        if task is None or task.done():
            self._tasks[session_id] = asyncio.create_task(
                self._life(session_id), name=f"session {session_id}"
            )

    def _restart(self, session_id: str) -> None:
        """Break off what is being done for a session and begin with the duty of its new state."""
        task = self._tasks.pop(session_id, None)
        if task is not None and not task.cancel():
            log.debug("session %s: its task had ended", session_id)
        self._carry(session_id)

    async def _life(self, session_id: str) -> None:
        duties = {
            State.PLACING: self._place,
            State.LAUNCHING: self._launch,
            State.RUNNING: self._watch,
            State.ENDING: self._clear,
            State.FAILING: self._clear,
        }
        while True:
            try:
                session = await self.lives.get(session_id)
                if session.state in FINAL:
                    await self._vault.forget(session_id)
                    self._secrets.pop(session_id, None)
                    if self._tasks.get(session_id) is asyncio.current_task():
                        del self._tasks[session_id]
                    return
                await duties[session.state](session)
            except Transient as error:
                log.info("session %s: %s", session_id, error)
                await self.clock.sleep(self._poll)
            except GridcloudError as error:
                await self._break(await self.lives.get(session_id), str(error))
                await self.clock.sleep(self._poll)
            except Exception as error:  # a fault of ours ends this session, told, and no other
                log.exception("session %s: the runner failed", session_id)
                session = await self.lives.get(session_id)
                await self._break(session, f"gridcloud itself failed: {type(error).__name__}")
                await self.clock.sleep(self._poll)

    async def _place(self, session: Session) -> None:
        wanted = session.course and not session.former
        if wanted and (seat := await take_seat(self.machines, session, self._before_end())):
            message = f"Instance {seat.id}, which was waiting for its course, is ready."
            await self.lives.happen(session, Event.PLACED, message, instance_id=seat.id)
            return
        former = await self.machines.records.get(session.former) if session.former else None
        with contextlib.suppress(Conflict):
            await self.machines.submit(
                session.owner,
                session.request,
                name=session.name,
                configure=session.configure,
                instance_id=session.instance_id,
                before_end=self._before_end(),
                folders=session.folders,
                avoid=[former.offer] if former is not None and former.offer is not None else (),
            )
        try:
            instance = await self.machines.wait(session.instance_id)
        except GridcloudError as error:
            await self._break(session, str(error), data={"error": error.problem()})
            return
        where = instance.offer.source if instance.offer else ""
        await self.lives.happen(session, Event.PLACED, f"Instance {instance.id} on {where} is ready.")

    async def _launch(self, session: Session) -> None:
        instance = await self.machines.records.get(session.instance_id)
        if instance.state is not InstanceState.READY or instance.address is None:
            await self._break(session, instance.detail or "The instance has ended.")
            return
        connection = await self.machines.links.get(instance.id, instance.address)
        environment = self._secrets.get(session.id)
        if environment is None:
            await self._break(
                session, "The session's secrets were lost while it was being started; start it again."
            )
            return
        if session.program is not None:  # it was being started when we ended
            await programs.stop(connection, session.program, grace=5.0)
        try:
            for attempt in range(TRIES):
                try:
                    await self._try_launch(session, instance, connection, environment)
                    return
                except PortTaken as error:
                    await self._close_forwards(session.id)
                    await self.lives.tell(session, "retrying", f"{error} Trying another port.")
                    if attempt == TRIES - 1:
                        raise
                    session = (await self.lives.get(session.id)).model_copy(update={"endpoint": None})
        except Rejected as error:
            await self._break(
                session, str(error), data={"error": error.problem()}, log=error.details.get("log", "")
            )

    async def _try_launch(
        self, session: Session, instance: Instance, connection: Connection, environment: Mapping[str, str]
    ) -> None:
        plan = session.plan
        exposed = await self._expose(session, instance, connection)
        remote = await self._listening_place(instance, connection)
        # One that moved answers where it did before: who uses it has that address.
        forward = await connection.forward(remote, session.endpoint or Port())
        self._forwards.setdefault(session.id, []).append(forward)
        endpoint = forward.endpoint
        if not isinstance(endpoint, Port):
            raise RuntimeError("a forward to a port gave none")
        values = {name: f"{port.host}:{port.port}" for name, port in exposed.items()}
        values |= {"port": str(remote.port if isinstance(remote, Port) else 8888)}
        values |= {"socket": remote.path if isinstance(remote, Socket) else ""}
        words = list(plan.words)
        if isinstance(remote, Socket):
            words += [_fill(word, values) for word in plan.listening]
        folder = f"{_directory(instance)}/.gridcloud/{session.id}"
        if plan.files:
            place = await place_files(connection, f"{folder}/files", plan.files)
            words += [_fill(word, {"files": place}) for word in plan.reading]
            values |= {"files": place}
        private = {"private": posixpath.dirname(remote.path)} if isinstance(remote, Socket) else {}
        filled = {
            name: _fill(value, values | private)
            for name, value in plan.environment.items()
            if private or "{private}" not in value
        }
        directory = plan.directory or await find_home(connection, instance)
        problems = await place_folders(connection, instance, session.folders, session.id)
        if full := await home_problems(connection, directory):
            filled |= plan.full_home
        for problem in (*problems, *full):
            await self.lives.tell(session, "warning", problem)
        command = Command(tuple(words), {**environment, **filled}, directory)
        command = await find_programs(instance, connection, command)
        await self.lives.tell(session, "launching", f"Starting {plan.words[0]}.")
        program = await programs.launch(connection, command, name=secrets.token_hex(4), folder=folder)
        session = await self.lives.save(
            await self.lives.get(session.id),
            "",
            "",
            remote=remote,
            endpoint=endpoint,
            exposed=exposed,
            program=program,
        )
        await self._answer(session, connection, program, endpoint)
        await self.lives.happen(session, Event.UP, "It answers.", started=self.clock.now())

    async def _expose(self, session: Session, instance: Instance, connection: Connection) -> dict[str, Port]:
        exposed = {}
        for name, port in session.plan.exposed.items():
            if isinstance(instance.address, LocalAddress):
                exposed[name] = port
                continue
            wanted = session.exposed.get(name, Port())
            forward = await connection.expose(port, wanted)
            self._forwards.setdefault(session.id, []).append(forward)
            if not isinstance(forward.endpoint, Port):
                raise RuntimeError("an exposed port became none")
            exposed[name] = forward.endpoint
        return exposed

    async def _listening_place(self, instance: Instance, connection: Connection) -> Endpoint:
        """Choose where the program listens: a port where it runs as ourselves, else a socket in a private folder.

        Any account of a machine can take a port just before a program does, or as soon as that has ended, and would
        get what its user's browser sends.
        """
        if isinstance(instance.address, LocalAddress) and not instance.address.user:
            return Port(port=_free_port())
        return Socket(path=await private_socket(connection, _directory(instance), instance.id))

    async def _answer(
        self, session: Session, connection: Connection, program: programs.Program, endpoint: Port
    ) -> None:
        """Return once the program answers. Raises PortTaken, Rejected when it ended, TimedOut."""
        url = f"http://{endpoint.host}:{endpoint.port}{session.plan.probe}"
        deadline = self.clock.monotonic() + self._up
        pause, looked = 0.02, self.clock.monotonic()
        # No name is looked up, and the other resolver leaves a thread behind.
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with client.get(url, allow_redirects=False):
                        return
                if self.clock.monotonic() - looked > 0.5:
                    looked = self.clock.monotonic()
                    await self._still_runs(session.plan.words[0], connection, program)
                if self.clock.monotonic() > deadline:
                    text = await last_words(connection, program)
                    raise Rejected(f"It did not answer within {self._up:g} s.", details={"log": text})
                await self.clock.sleep(pause)
                pause = min(pause * 1.3, 0.5)

    async def _still_runs(self, name: str, connection: Connection, program: programs.Program) -> None:
        status = await programs.status(connection, program)
        if isinstance(status, programs.Exited):
            text = await last_words(connection, program)
            if "Address already in use" in text or "already in use" in text:
                raise PortTaken("Somebody else listens on the chosen port.")
            if status.code == NOT_FOUND and name in text and "not found" in text:
                raise Rejected(
                    f"The machine has no program {name!r}.",
                    remedy="Take an image that has it, or set 'packages' below 'session' in the configuration, as to "
                    "[jupyterlab]: what a session needs is then installed there when one starts.",
                    details={"log": text},
                )
            raise Rejected(
                f"The program ended with exit code {status.code}: {last_line(text)}", details={"log": text}
            )

    async def _watch(self, session: Session) -> None:
        """Hold the tunnels of a running session and notice its end."""
        instance = await self.machines.records.get(session.instance_id)
        if instance.state is not InstanceState.READY or instance.address is None:
            if instance.state is InstanceState.STOPPING:
                await self.asking.have_saved(session, instance)
            if instance.reclaimed and session.id in self._secrets:
                await self._move(session, instance)
                return
            await self._break(session, instance.detail or "The instance has ended.", reason=instance.reason)
            return
        connection = await self.machines.links.get(instance.id, instance.address)
        if session.id not in self._forwards:
            try:
                await self._reopen(session, instance, connection)
            except PortTaken as error:  # by what the lost connection left there, as a rule: it ends soon
                await self._close_forwards(session.id)
                raise Transient(str(error)) from error
        self.asking.begin(session.id)
        if session.program is not None:
            status = await self._status(instance, connection, session.program)
            if isinstance(status, programs.Exited):
                text = await last_words(connection, session.program)
                await self._break(session, f"The program ended with exit code {status.code}.", log=text)
                return
        await self._pause_while_ready(instance)

    async def _move(self, session: Session, instance: Instance) -> None:
        """Have a session whose machine was taken back begin again elsewhere, once what was there is saved."""
        async for now in self.machines.records.follow(instance.id):
            if now.state in INSTANCE_FINAL:
                break
        await self._close_forwards(session.id)
        request = session.request
        if instance.expires is not None:
            left = int((instance.expires - self.clock.now()).total_seconds())
            request = request.model_copy(update={"time": max(60, left)})
        await self.lives.happen(
            session,
            Event.MOVED,
            f"Instance {instance.id} was taken back by its owner: it goes on elsewhere.",
            request=request,
            former=instance.id,
            instance_id=self.clock.new_id("i"),
            remote=None,
            exposed={},
            program=None,
        )

    async def _status(
        self, instance: Instance, connection: Connection, program: programs.Program
    ) -> programs.Running | programs.Exited:
        """Ask how the program is, for as long as its instance is ready. Raises TimedOut."""
        asking = asyncio.ensure_future(programs.status(connection, program))
        leaving = asyncio.ensure_future(self._leave_ready(instance))
        try:
            done, _ = await asyncio.wait({asking, leaving}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            if asking in done:
                return asking.result()
            if leaving in done:
                return programs.Running()
            raise TimedOut("The machine does not answer.")
        finally:
            asking.cancel()
            leaving.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)

    async def _leave_ready(self, instance: Instance) -> None:
        async for now in self.machines.records.follow(instance.id):
            if now.state is not InstanceState.READY:
                return

    async def _pause_while_ready(self, instance: Instance) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._leave_ready(instance)

    async def _reopen(self, session: Session, instance: Instance, connection: Connection) -> None:
        """Open the tunnels of a session that outlived us, where they were before."""
        await self._expose(session, instance, connection)
        if session.remote is None or session.endpoint is None:
            return
        forward = await connection.forward(session.remote, session.endpoint)
        self._forwards.setdefault(session.id, []).append(forward)
        await self.lives.tell(session, "reconnected", "The tunnels are open again.")

    async def _clear(self, session: Session) -> None:
        self.asking.forget(session.id)
        await self._close_forwards(session.id)
        if session.course:
            session = await self._leave_seat(session)
        try:
            instance = await self.machines.records.get(session.instance_id)
        except NotFound:  # it was stopped before its machine was asked for
            await self.lives.happen(session, Event.CLEARED, "Nothing was started.", ended=self.clock.now())
            return
        if (
            instance.state is InstanceState.READY
            and instance.address is not None
            and session.program is not None
        ):
            with contextlib.suppress(GridcloudError, TimeoutError):
                async with asyncio.timeout(15):
                    connection = await self.machines.links.get(instance.id, instance.address)
                    await programs.stop(connection, session.program, grace=5.0)
                    if isinstance(session.remote, Socket):
                        await remove_socket(connection, session.remote.path)
        reason = session.reason if session.reason in (Reason.ASKED, Reason.EXPIRED, Reason.IDLE) else None
        await self.machines.stop(session.instance_id, reason, session.detail)
        async for now in self.machines.records.follow(session.instance_id):
            if now.state in INSTANCE_FINAL:
                break
        await self.lives.happen(
            session, Event.CLEARED, "Nothing is left of it.", ended=self.clock.now(), endpoint=None
        )

    async def _leave_seat(self, session: Session) -> Session:
        """Let go of a seat that was claimed, and end that which was handed over just before the session was stopped."""
        seat = await self.machines.handing.claimed(session.id)
        if seat is None or seat.id == session.instance_id:
            return session
        await self.machines.handing.release(seat.id, "who asked for it went away")
        seat = await self.machines.records.get(seat.id)
        if is_waiting(seat):
            return session
        return await self.lives.save(session, "", "", instance_id=seat.id)

    async def _break(
        self,
        session: Session,
        detail: str,
        *,
        reason: Reason = Reason.ABANDONED,
        log: str = "",
        data: dict[str, Any] | None = None,
    ) -> None:
        error = str((data or {}).get("error", {}).get("title", "")) or (reason.value or "unknown")
        changes: dict[str, Any] = {"detail": detail, "reason": reason, "log": log[-4000:], "error": error}
        await self.lives.happen(session, Event.BROKEN, detail, data, **changes)

    async def _close_forwards(self, session_id: str) -> None:
        for forward in self._forwards.pop(session_id, ()):
            with contextlib.suppress(GridcloudError):
                await forward.close()


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def _directory(instance: Instance) -> str:
    return getattr(instance.address, "directory", "") or "."


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
