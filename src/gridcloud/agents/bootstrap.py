"""An agent that is one instance: all there is where it runs, a batch job, a pod or a machine, and no more than once.

Whoever started it set its limits: nothing is divided or limited here. What runs is ended with the agent, for it is
the parent of all that would otherwise belong to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

import gridcloud
from gridcloud import connections
from gridcloud.agents.membership import Membership
from gridcloud.agents.model import Caps, Report
from gridcloud.agents.serving import Account
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import LocalAddress
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.identity.keys import write_whole

__all__ = ["Bootstrap", "render_enter"]

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks at the time, and for processes that have ended and nobody waits for."""
GRACE = 3.0
"""Seconds between TERM and KILL for what runs."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
BATCH = ("SLURM_JOB", "SLURM_CPUS", "SLURM_MEM", "SLURM_NODE", "SLURM_NNODES", "SLURM_GPUS", "SLURM_GTIDS")
BATCH_NAMES = frozenset({"SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_SUBMIT_HOST", "SLURM_TASKS_PER_NODE"})


class _Keys:
    """No connection here needs a key."""

    async def private_key(self, reference: str) -> Any:
        raise NotFound("There are no keys here.")

    async def user_certificate(self, principal: str) -> Any:
        raise NotFound("There are no keys here.")


class Bootstrap:
    """One instance, named as its membership. ``folder`` (private) holds what it keeps, and the instance's own folder;
    ``home``: where the owner's own files lie; empty: in the instance's own folder.

    ``adopt``: be the parent of what belongs to nobody, and end it at the end: for a process of its own.
    """

    def __init__(
        self,
        membership: Membership,
        folder: Path,
        home: str = "",
        *,
        adopt: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._membership = membership
        self._work = folder / "work"
        self._end_file = folder / "ends"
        self._home = home
        self._adopt = adopt
        self._now = now
        self._ends: datetime | None = None
        self._ended = asyncio.Event()
        self._enter = render_enter(os.environ)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the instance's folder, and look after its end. Raises NotFound where there is no such home."""
        if self._home and not Path(self._home).is_dir():
            raise NotFound(f"There is no folder {self._home} for its owner's files.")
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):  # an agent that was started again knows its end
            self._ends = datetime.fromisoformat(self._end_file.read_text())
        if self._adopt:
            _adopt_orphans()
            # Programs of sessions lie beside gridcloud; they are found when there are no others.
            os.environ["PATH"] = (
                f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"
            )
        self._watch = asyncio.create_task(self._look_after(), name="agent: end")

    async def wait_ended(self) -> None:
        """Return when its time is over."""
        await self._ended.wait()

    async def close(self) -> None:
        """End all that runs, and remove the instance's folder. May be called twice."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._adopt:
            await asyncio.to_thread(_end_all)
        await asyncio.to_thread(shutil.rmtree, self._work, ignore_errors=True)
        # Where a session's socket lies when the path of the instance's folder is too long for one.
        await asyncio.to_thread(shutil.rmtree, f"/tmp/gridcloud-{self._membership.name}", ignore_errors=True)  # noqa: S108

    async def report(self) -> Report:
        """Return what is there now."""
        return Report(
            version=gridcloud.__version__,
            capacity=self._membership.caps,
            free=Caps(cpus=0, memory=0, gpus=0),
            load=os.getloadavg()[0],
            running=(self._membership.name,),
            directory=str(self._work),
            home=self._home or str(self._work),
        )

    async def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        """Do what the service asks for. Raises InvalidRequest."""
        if call == "arm":
            self._arm(arguments.get("at"))
        elif call == "remove":
            self._ended.set()
        else:
            raise InvalidRequest(f"An instance that is an agent itself knows no {call!r:.60}.")

    def find(self, name: str) -> Account | None:
        """Return the account of the instance, by its id."""
        if name != self._membership.name:
            return None
        address = LocalAddress(directory=str(self._work), home=self._home, enter=self._enter)

        async def open() -> Connection:  # noqa: A001 - what the account calls it
            return await connections.open(address, _Keys())

        return Account(f"gridcloud-{name}", str(self._work), open)

    def _arm(self, at: object) -> None:
        try:
            ends = datetime.fromisoformat(str(at))
        except ValueError:
            raise InvalidRequest(f"{at!r:.60} is no moment.") from None
        if ends.tzinfo is None:
            raise InvalidRequest(f"{ends} is no moment: its time zone is missing.")
        write_whole(self._end_file, ends.isoformat().encode(), 0o600)
        self._ends = ends

    async def _look_after(self) -> None:
        waiting: set[int] = set()
        while True:
            if self._ends is not None and self._ends <= self._now():
                log.warning("the time of %s is over", self._membership.name)
                self._ended.set()
            if self._adopt:
                waiting = _bury(waiting)
            await asyncio.sleep(LOOK)


def render_enter(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the command that tells commands what a batch system told the job: its id, nodes and shares.

    No other variables: a batch system's own may be secret, and words of a command are not.
    """
    told = [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if name.startswith(BATCH) or name in BATCH_NAMES
    ]
    return ("env", *told) if told else ()


def _adopt_orphans() -> None:
    """Be the parent of our children's children that lose theirs: what left its session is found by it all the same."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):
        log.warning(
            "what leaves its session here may outlive this instance: %s", os.strerror(ctypes.get_errno())
        )


def _bury(before: set[int]) -> set[int]:
    """Wait for children that ended and were seen so before; return those that are seen so now.

    Who started a process itself waits for it at once: what is still there at a second look came to us as an orphan.
    """
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() == psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    for pid in before & found:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return found - before


def _end_all() -> None:
    """End all that descends from this process, until nothing is left."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        _, alive = psutil.wait_procs(_signal_all(number), timeout=seconds)
        if not alive and not psutil.Process().children():
            return


def _signal_all(number: signal.Signals) -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
            if number is signal.SIGTERM:
                process.resume()  # who was stopped hears nothing
    return found
