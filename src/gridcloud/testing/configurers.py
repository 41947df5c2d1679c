"""What every configurer does, as a suite to subclass.

    class TestMine(ConfigurerContract):
        @pytest.fixture
        async def connection(self, ...):
            ...                      # to a fresh machine; closed afterwards

        @pytest.fixture
        def cases(self, ...):
            return Cases(works=..., made=..., says=..., fails=..., words=..., lasts=..., begins=..., mark=...)

The machine needs a POSIX shell and /proc. A deviation that is known is stated by overriding the test with a strict
``xfail`` and its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from gridcloud.configurers.commands import run
from gridcloud.configurers.driver import Configurer
from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import ConfigurationFailed, Unreachable

__all__ = ["HOSTILE", "Cases", "ConfigurerContract", "facts"]

TRAP = "gridcloud-was-here"
HOSTILE = (
    f"a b; touch {TRAP}",
    f"$(touch {TRAP})`touch {TRAP}`",
    "{{ lookup('pipe', 'touch " + TRAP + "') }}",
    "../../etc",
    "-rf",
    "line\nline",
    "Ünïcode 名前 🧪",
    "x" * 300,
)


@dataclass(frozen=True)
class Cases:
    """Configurers made for the machine under test, and what they do there."""

    works: Configurer
    """One that works and may be repeated."""
    made: str
    """A shell test of what it has made there, such as ``test -e made``, run in the instance's own folder."""
    says: str
    """Words it says while it works."""
    fails: Configurer
    words: str
    """What the failing one's tool says."""
    lasts: Configurer
    """One that would take minutes."""
    begins: str
    """Words the lasting one says once it is under way."""
    mark: str
    """Text in the command line of every process that the lasting one starts there."""


def facts(owner: str = "ada", **more: Any) -> Facts:
    """Return what a configurer is told of a machine in a test."""
    return Facts(instance_id="t-0123456789", owner=owner, provider="under-test", cpus=1, memory=2**30, **more)


class ConfigurerContract:
    """What every configurer keeps. The subclass gives the fixtures ``connection`` and ``cases``."""

    patience: float = 60
    """Seconds that one configuration may take."""
    owners: ClassVar[tuple[str, ...]] = HOSTILE
    """Names to try; a suite whose tool is slow may try one that holds them all."""

    @pytest.fixture
    def connection(self) -> Any:
        """A connection to a machine on which nothing is configured. The subclass gives it."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'connection'")

    @pytest.fixture
    def cases(self) -> Any:
        """The configurers under test. The subclass gives them."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'cases'")

    @pytest.fixture
    async def onlooker(self, connection: Connection) -> Connection:
        """Another connection to the same machine, which outlives the first. By default the first, while it is open."""
        return connection

    async def configure(
        self, configurer: Configurer, connection: Connection, owner: str = "ada"
    ) -> list[str]:
        """Configure the machine and return the lines that were told."""
        told: list[str] = []
        async with asyncio.timeout(self.patience):
            await configurer.configure(connection, facts(owner), told.append)
        return told

    async def begin(self, cases: Cases, connection: Connection) -> asyncio.Task[None]:
        """Start the lasting one; return once it is under way, which shows that lines come as they are said."""
        begun = asyncio.Event()

        def report(line: str) -> None:
            if cases.begins in line:
                begun.set()

        work = asyncio.create_task(cases.lasts.configure(connection, facts(), report))
        waiting = asyncio.create_task(begun.wait())
        try:
            async with asyncio.timeout(self.patience):
                await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise
        finally:
            waiting.cancel()
        if not begun.is_set():
            await work
            raise AssertionError("it ended without a word")
        return work

    async def holds(self, connection: Connection, test: str) -> bool:
        """Say whether a shell test holds in the instance's own folder."""
        return (await run(connection, Command(words=("/bin/sh", "-c", test)), lambda line: None)).code == 0

    async def left(self, connection: Connection, mark: str) -> list[str]:
        """Return the command lines on the machine that hold the mark, once what is ending had a moment to end."""
        told: list[str] = []
        look = Command(words=("/bin/sh", "-c", _LOOK), environment={"MARK": mark})
        for _ in range(20):
            told.clear()
            await run(connection, look, told.append)
            if not told:
                break
            await asyncio.sleep(0.1)
        return told

    async def test_checks(self, cases: Cases) -> None:
        async with asyncio.timeout(5):
            await cases.works.check()
            await cases.fails.check()

    async def test_configures_tells_and_may_be_repeated(self, cases: Cases, connection: Connection) -> None:
        assert not await self.holds(connection, cases.made)
        told = await self.configure(cases.works, connection)
        assert await self.holds(connection, cases.made)
        assert any(cases.says in line for line in told), told
        assert not [
            line for line in told if not line or any(character < " " for character in line.replace("\t", ""))
        ]
        await self.configure(cases.works, connection)
        assert await self.holds(connection, cases.made)

    async def test_failure_has_the_tools_own_words_and_may_be_mended(
        self, cases: Cases, connection: Connection
    ) -> None:
        with pytest.raises(ConfigurationFailed) as failure:
            await self.configure(cases.fails, connection)
        assert cases.words in str(failure.value)
        await self.configure(cases.works, connection)
        assert await self.holds(connection, cases.made)

    async def test_owners_name_is_only_text(self, cases: Cases, connection: Connection) -> None:
        for owner in self.owners:
            await self.configure(cases.works, connection, owner)
            assert await self.holds(connection, cases.made)
            assert not await self.holds(connection, f"test -e {TRAP} || test -e /tmp/{TRAP}"), owner

    async def test_cancelled_leaves_no_process(self, cases: Cases, connection: Connection) -> None:
        work = await self.begin(cases, connection)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        assert work.cancelled()
        left = await self.left(connection, cases.mark)
        assert not left, left
        await self.configure(cases.works, connection)

    async def test_lost_connection_is_told_apart(
        self, cases: Cases, connection: Connection, onlooker: Connection
    ) -> None:
        work = await self.begin(cases, connection)
        await connection.close()
        with pytest.raises(Unreachable):
            async with asyncio.timeout(self.patience):
                await work
        if onlooker is not connection:
            left = await self.left(onlooker, cases.mark)
            assert not left, left


# The mark comes as a variable, so that looking is not found.
_LOOK = r"""
for file in /proc/[0-9]*/cmdline; do
    line=$({ tr '\0' ' ' <"$file"; } 2>/dev/null) || continue
    case $line in *"$MARK"*) printf '%s %s\n' "$file" "$line";; esac
done
"""
