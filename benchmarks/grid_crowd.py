"""Some of the institutions of `benchmarks.discovery`, in one process; it is told what to do line by line.

    python -m benchmarks.grid_crowd FOLDER FIRST COUNT

A line on its input is a JSON list, the name of a method of `Crowd` and its arguments; each is answered by a line with
what the method returns. It ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.grid.offices import Place, places, until

from benchmarks.roads import Road

__all__ = ["Crowd", "open_crowds"]

PATIENCE = 600.0
"""Seconds that are waited for all to know all."""


class Crowd:
    """Institutions of one process; the first one of all founds the community."""

    def __init__(self, everybody: list[Place]) -> None:
        self._everybody = everybody
        self._by_id = {place.office.me: place for place in everybody}
        self._roads: list[Road] = []
        self._before: dict[str, int] = {}

    async def ids(self) -> list[str]:
        """Return who is in here."""
        return list(self._by_id)

    async def found(self) -> None:
        """Have the first one found the community."""
        await self._everybody[0].office.found("north")

    async def invite(self, guest: str) -> dict[str, Any]:
        """Have the first one invite somebody; return the invitation."""
        _, invitation = await self._everybody[0].office.invite("north", guest)
        return invitation

    async def join(self, guest: str, invitation: dict[str, Any], host: str) -> None:
        """Have one of ours come in."""
        await self._by_id[guest].office.join(invitation, host)

    async def know(self, members: int) -> None:
        """Return when each of ours holds the records of so many."""
        await self._all(lambda one: len(_serials(one)) == members)

    async def move(self) -> None:
        """Give each an address whose bytes are counted, which it does not tell yet."""
        self._before = {who: serial for one in self._everybody for who, serial in _serials(one).items()}
        for place in self._everybody:
            road = Road(place.office.doorway.port)
            await road.open()
            self._roads.append(road)
            address = f"https://127.0.0.1:{road.port}"
            place.settings = place.settings.model_copy(update={"addresses": (address,)})

    async def change(self) -> None:
        """Have each tell its new address; return when ours know those of all."""
        for place in self._everybody:
            place.office._gossiping.tell_anew()
        before = self._before
        await self._all(lambda one: all(at > before[who] for who, at in _serials(one).items()))

    async def carried(self) -> int:
        """Return the bytes that went over our roads so far."""
        return sum(road.bytes for road in self._roads)

    async def close(self) -> None:
        """Close the roads."""
        for road in self._roads:
            await road.close()

    async def _all(self, true: Callable[[Place], bool]) -> None:
        waiting = list(self._everybody)

        def done() -> bool:
            waiting[:] = [one for one in waiting if not true(one)]
            return not waiting

        await until(done, PATIENCE)


def _serials(one: Place) -> dict[str, int]:
    """Return which record of each member one holds; what it shows to people would take longer to make."""
    held = one.office._circle.held.values()
    return {who: record.serial for each in held for who, record in each.gossip.records.items()}


class _Told:
    """The other end: a crowd in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, name: str, *arguments: Any) -> Any:
        """Have it do something, and return what it returned. Raises SystemExit when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        answer = await self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a process of institutions ended while it was to {name}")
        return json.loads(answer)

    async def end(self) -> None:
        """Wait until it closed everything."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@contextlib.asynccontextmanager
async def open_crowds(folder: Path, members: int, processes: int) -> AsyncIterator[list[_Told]]:
    """Give so many institutions, spread over so many processes."""
    bounds = [members * number // processes for number in range(processes + 1)]
    crowds: list[_Told] = []
    try:
        for first, last in pairwise(bounds):
            words = ("-m", "benchmarks.grid_crowd", str(folder), str(first), str(last - first))
            crowds.append(
                _Told(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        *words,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        limit=1 << 24,
                    )
                )
            )
        yield crowds
    finally:
        for crowd in crowds:
            await crowd.end()


async def main(folder: str, first: str, count: str) -> None:
    """Do what is told until the input ends."""
    names = [f"member-{number:03}" for number in range(int(first), int(first) + int(count))]
    async with places(Path(folder), *names) as everybody:
        crowd = Crowd(everybody)
        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                name, *arguments = json.loads(line)
                print(json.dumps(await getattr(crowd, name)(*arguments)), flush=True)
        finally:
            await crowd.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
