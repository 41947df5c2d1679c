"""The contract suite of instance providers: subclass it, give it a driver, and it says what the driver does not keep.

::

    class TestMine(InstanceDriverContract):
        @pytest.fixture
        async def driver(self, tmp_path):
            driver = MyDriver(MySettings(driver="mine", …), driver_context(tmp_path))
            yield driver
            await driver.close()

A deviation that is known is stated by overriding the test with a strict ``xfail`` and its reason. The suite needs
pytest-asyncio in its automatic mode.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address
from gridcloud.errors import ConnectionLost, NotFound, Transient, Unavailable
from gridcloud.identity import Secret, resolve
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.model import SHARED, Finding, Handle, Observation, Offer, Phase, Request, Spec

__all__ = [
    "HOSTILE_TEXTS",
    "InstanceDriverContract",
    "check_findings",
    "driver_context",
    "open_connection",
    "read_output",
    "read_secret",
]

HOSTILE_TEXTS = (
    "a b; touch /tmp/x",
    "../../etc",
    "$(touch /tmp/x)`touch /tmp/x`",
    "-rf",
    "Ünïcode 名前 🧪",
    "x" * 300,
)
"""Names that people could give, each harmless unless it is trusted."""


async def open_connection(address: Address) -> Connection:
    """Open a connection as the house does, where no key is needed."""
    from gridcloud import connections

    return await connections.open(address, _NoCredentials())


def driver_context(
    folder: Path,
    connect: Callable[[Address], Awaitable[Connection]] = open_connection,
    provider: str = "under-test",
    installation: str = "gridcloud-test",
    user_authority: str = "",
) -> Context:
    """Return what the house gives a driver, with ``folder`` as its private folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return Context(
        provider=provider,
        installation=installation,
        folder=folder,
        connect=connect,
        user_authority=user_authority,
        secret=read_secret,
    )


async def read_secret(reference: str) -> Secret:
    """Read a secret as the house does for a driver."""
    return await asyncio.to_thread(resolve, reference)


async def read_output(connection: Connection, *words: str, **environment: str) -> str:
    """Run a command and return its standard output; fail the test when the command fails."""
    process = await connection.start(Command(words=words, environment=environment))
    out, err = await asyncio.gather(_gather(process.stdout()), _gather(process.stderr()))
    code = await process.wait()
    assert code == 0, f"{words} ended with {code}: {err.decode(errors='replace')}"
    return out.decode()


def check_findings(findings: Sequence[Finding]) -> None:
    """Assert that there are findings, and that each which is wrong, or could not be found out, says what to do."""
    assert findings
    for finding in findings:
        assert isinstance(finding, Finding)
        assert finding.message
        assert (finding.ok and finding.known) or finding.remedy, (
            f"nobody is told what to do: {finding.message}"
        )


class InstanceDriverContract:
    """What every provider keeps. The subclass gives the fixture ``driver``; it may replace the rest."""

    request_: ClassVar[Request] = Request(cpus=1, memory=64 * 1024**2)
    """A request that the provider under test can serve at least twice."""
    most: ClassVar[int] = 8
    """No more instances than this fit when each asks for the largest shape; 0: the provider has no bound to reach."""
    start_seconds: ClassVar[float] = 60
    """How long an instance may take until it runs."""
    poll_seconds: ClassVar[float] = 0.05
    """How long to wait between two looks at an instance."""

    @pytest.fixture
    def driver(self) -> Any:
        """A fresh driver of a provider that holds nothing of ours; closed afterwards. The subclass gives it."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'driver'")

    @pytest.fixture
    async def second_driver(self, driver: InstanceDriver) -> AsyncIterator[InstanceDriver]:
        """Another object for the same provider, as after a restart."""
        second = type(driver)(driver.settings, driver.context)
        yield second
        await second.close()

    @pytest.fixture(autouse=True)
    async def _leave_nothing(self, driver: InstanceDriver) -> AsyncIterator[None]:
        yield
        holdings = await driver.holdings()
        for holding in sorted(holdings, key=lambda one: one.instance_id == SHARED):
            await driver.destroy(holding.instance_id, holding.handle)
        if any(holding.instance_id == SHARED for holding in holdings):
            assert await driver.holdings() == [], "what all instances shared goes with the last of them"

    async def connect(self, driver: InstanceDriver, address: Address) -> Connection:
        """Open a connection to an instance."""
        return await driver.context.connect(address)

    async def spec(self, driver: InstanceDriver, owner: str = "ada", name: str = "", **asked: object) -> Spec:
        """Return a specification made from the best offer for the request, with a new id."""
        request = self.request_.model_copy(update=asked)
        offers = await driver.offers(request)
        free = [offer for offer in offers if offer.available]
        assert free, f"nothing is offered for {request}: {[offer.why_not for offer in offers]}"
        return Spec(id=f"t-{secrets.token_hex(5)}", owner=owner, name=name, request=request, offer=free[0])

    async def running(self, driver: InstanceDriver, spec: Spec, handle: Handle) -> Observation:
        """Return the observation of the instance once it runs; fail the test when it does not come to that."""
        async with asyncio.timeout(self.start_seconds):
            while True:
                seen = (await driver.observe({spec.id: handle}))[spec.id]
                if seen.phase is Phase.RUNNING:
                    assert seen.address is not None, "a running instance has an address"
                    return seen
                assert seen.phase is Phase.PENDING, f"it became {seen.phase}: {seen.detail}"
                await asyncio.sleep(self.poll_seconds)

    async def phase(self, driver: InstanceDriver, spec: Spec, handle: Handle) -> Phase:
        """Return what the instance is now."""
        async with asyncio.timeout(10):
            return (await driver.observe({spec.id: handle}))[spec.id].phase

    async def held(self, driver: InstanceDriver) -> list[str]:
        """Return the ids of the instances that the provider holds anything of, each once."""
        ids = [holding.instance_id for holding in await driver.holdings()]
        return sorted({one for one in ids if one != SHARED})

    # Offers

    async def test_offers_what_fits(self, driver: InstanceDriver) -> None:
        async with asyncio.timeout(10):
            offers = await driver.offers(self.request_)
        assert offers
        for offer in offers:
            assert offer.provider == driver.context.provider
            assert offer.possible
            assert offer.available
            assert offer.shape.cpus >= self.request_.cpus
            assert offer.shape.memory >= self.request_.memory
            assert offer.price >= 0

    async def test_says_what_is_largest_when_nothing_ever_fits(self, driver: InstanceDriver) -> None:
        for beyond in ({"gpus": 9000}, {"cpus": 900_000.0}, {"memory": 2**59}):
            offer = await self._impossible(driver, **beyond)
            assert offer.why_not
            assert offer.shape.cpus > 0
            assert offer.shape.memory > 0

    async def test_offers_reserve_nothing(self, driver: InstanceDriver) -> None:
        first = [offer.available for offer in await driver.offers(self.request_)]
        for _ in range(5):
            again = [offer.available for offer in await driver.offers(self.request_)]
        assert again == first
        assert await self.held(driver) == []

    # One life

    async def test_lives_and_goes(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        async with asyncio.timeout(60):
            handle = await driver.create(spec)
        address = (await self.running(driver, spec, handle)).address
        assert address is not None
        connection = await self.connect(driver, address)
        try:
            assert await read_output(connection, "echo", "a b;  $HOME") == "a b;  $HOME\n"
        finally:
            await connection.close()
        await driver.destroy(spec.id, handle)
        assert await self.phase(driver, spec, handle) is Phase.GONE
        assert await self.held(driver) == []

    async def test_handle_is_small_json_and_survives_a_restart(
        self, driver: InstanceDriver, second_driver: InstanceDriver
    ) -> None:
        spec = await self.spec(driver)
        text = (await driver.create(spec)).model_dump_json()
        assert len(text) <= 8192
        handle = Handle.model_validate(json.loads(text))
        await self.running(second_driver, spec, handle)
        assert await self.held(second_driver) == [spec.id]
        await second_driver.destroy(spec.id, handle)
        assert await self.phase(driver, spec, handle) is Phase.GONE

    async def test_create_twice_makes_one(
        self, driver: InstanceDriver, second_driver: InstanceDriver
    ) -> None:
        spec = await self.spec(driver)
        first = await driver.create(spec)
        second = await second_driver.create(spec)
        await self.running(driver, spec, first)
        await self.running(driver, spec, second)
        assert await self.held(driver) == [spec.id]

    async def test_create_twice_at_once_makes_one(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        handles = await asyncio.gather(driver.create(spec), driver.create(spec))
        for handle in handles:
            await self.running(driver, spec, handle)
        assert await self.held(driver) == [spec.id]
        await driver.destroy(spec.id, handles[0])
        assert await self.phase(driver, spec, handles[1]) is Phase.GONE

    async def test_destroy_twice_and_of_nothing_succeeds(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await asyncio.gather(driver.destroy(spec.id, handle), driver.destroy(spec.id, handle))
        await driver.destroy(spec.id, handle)
        await driver.destroy("t-never-was", None)
        assert await self.held(driver) == []

    async def test_destroy_without_a_handle(
        self, driver: InstanceDriver, second_driver: InstanceDriver
    ) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await second_driver.destroy(spec.id, None)
        assert await self.held(driver) == []
        assert await self.phase(driver, spec, handle) is Phase.GONE

    async def test_destroy_ends_what_runs(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        address = (await self.running(driver, spec, handle)).address
        assert address is not None
        connection = await self.connect(driver, address)
        try:
            process = await connection.start(Command(words=("sleep", "600")))
            await driver.destroy(spec.id, handle)
            async with asyncio.timeout(10):
                try:
                    assert await process.wait() != 0
                except ConnectionLost:
                    pass  # the machine went with the process
        finally:
            await connection.close()

    async def test_unknown_is_gone(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await driver.destroy(spec.id, handle)
        spare = await self.spec(driver)
        other = await driver.create(spare)
        seen = await driver.observe({spec.id: handle, spare.id: other})
        assert set(seen) == {spec.id, spare.id}, (
            "each is answered for: no word of one is no word that it is gone"
        )
        assert seen[spec.id].phase is Phase.GONE
        assert seen[spare.id].phase in {Phase.PENDING, Phase.RUNNING}
        assert not await driver.observe({})

    async def test_a_handle_of_a_former_life_brings_nothing_back(self, driver: InstanceDriver) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await driver.destroy(spec.id, handle)
        again = await self._created_once_gone(driver, spec)
        await self.running(driver, spec, again)

    async def _created_once_gone(self, driver: InstanceDriver, spec: Spec) -> Handle:
        """Create it again; what is certain to go may still hold its name for a while, and the driver says so."""
        async with asyncio.timeout(120):
            while True:
                try:
                    return await driver.create(spec)
                except Transient:
                    await asyncio.sleep(1)

    # Owners and names

    @pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
    async def test_names_are_never_trusted(self, driver: InstanceDriver, text: str, tmp_path: Path) -> None:
        mark = tmp_path / "touched"
        text = text.replace("/tmp/x", str(mark)) if len(text) < 300 else text
        spec = await self.spec(driver, owner=self.owner_named(text), name=text)
        handle = await driver.create(spec)
        await driver.observe({spec.id: handle})
        assert await self.held(driver) == [spec.id]
        await driver.destroy(spec.id, handle)
        assert not mark.exists()

    def owner_named(self, text: str) -> str:
        """Return the owner for a hostile name; a driver that serves only owners it knows returns one of those."""
        return text

    def second_owner(self) -> str:
        """Return another owner than ``ada``."""
        return "grace"

    async def test_two_owners_beside_each_other(self, driver: InstanceDriver) -> None:
        one, other = await self.spec(driver), await self.spec(driver, owner=self.second_owner())
        first, second = await asyncio.gather(driver.create(one), driver.create(other))
        await self.running(driver, one, first)
        await self.running(driver, other, second)
        assert sorted(await self.held(driver)) == sorted([one.id, other.id])
        await driver.destroy(one.id, first)
        assert await self.phase(driver, other, second) is Phase.RUNNING

    # Capacity

    async def test_full_says_so_and_has_room_again(self, driver: InstanceDriver) -> None:
        made = await self._fill(driver)
        largest = self._all_of((await self._impossible(driver, cpus=900_000.0)).shape.model_dump())
        offers = await driver.offers(largest)
        assert offers
        for offer in offers:
            assert offer.possible
            assert not offer.available
            assert offer.why_not
        extra = made[-1][0].model_copy(update={"id": f"t-{secrets.token_hex(5)}"})
        with pytest.raises(Unavailable):
            await driver.create(extra)
        await driver.destroy(extra.id, None)
        await driver.destroy(made[-1][0].id, made[-1][1])
        made[-1] = (extra, await driver.create(extra))
        await self.running(driver, extra, made[-1][1])

    async def test_two_race_for_the_last(self, driver: InstanceDriver, second_driver: InstanceDriver) -> None:
        made = await self._fill(driver)
        last, handle = made[-1]
        await driver.destroy(last.id, handle)
        racers = [last.model_copy(update={"id": f"t-{secrets.token_hex(5)}"}) for _ in range(2)]
        results = await asyncio.gather(
            driver.create(racers[0]), second_driver.create(racers[1]), return_exceptions=True
        )
        made_one, refused = sorted(results, key=lambda result: isinstance(result, BaseException))
        assert isinstance(made_one, Handle), made_one
        assert isinstance(refused, Unavailable), refused
        for racer, result in zip(racers, results, strict=True):
            if isinstance(result, BaseException):
                await driver.destroy(racer.id, None)
        assert len(await self.held(driver)) == len(made)

    # The rest

    async def test_check_tells_findings(self, driver: InstanceDriver) -> None:
        async with asyncio.timeout(30):
            findings = await driver.check()
        check_findings(findings)

    async def test_close_twice_and_instances_live_on(
        self, driver: InstanceDriver, second_driver: InstanceDriver
    ) -> None:
        spec = await self.spec(driver)
        handle = await second_driver.create(spec)
        await self.running(second_driver, spec, handle)
        await second_driver.close()
        await second_driver.close()
        assert await self.phase(driver, spec, handle) is Phase.RUNNING

    async def _impossible(self, driver: InstanceDriver, **beyond: object) -> Offer:
        async with asyncio.timeout(60):
            offers = await driver.offers(self.request_.model_copy(update=beyond))
        assert len(offers) == 1, "what never fits is one offer"
        assert not offers[0].possible
        assert not offers[0].available
        return offers[0]

    def _all_of(self, shape: dict[str, object]) -> Request:
        return self.request_.model_copy(update={name: shape[name] for name in ("cpus", "memory")})

    async def _fill(self, driver: InstanceDriver) -> list[tuple[Spec, Handle]]:
        """Take the largest shape until none is left."""
        if not self.most:
            pytest.skip("this provider has no bound that a test could reach")
        largest = self._all_of((await self._impossible(driver, cpus=900_000.0)).shape.model_dump())
        made: list[tuple[Spec, Handle]] = []
        while any(offer.available for offer in await driver.offers(largest)):
            assert len(made) < self.most, f"more than {self.most} instances of {largest} fit"
            spec = await self.spec(driver, cpus=largest.cpus, memory=largest.memory)
            handle = await driver.create(spec)
            made.append((spec, handle))
            await self.running(driver, spec, handle)
        assert made, "the largest shape can be had while nothing is taken"
        return made


class _NoCredentials:
    async def private_key(self, reference: str) -> Any:
        raise NotFound(
            f"there is no private key {reference!r}", remedy="Give the suite's driver its own 'connect'."
        )

    async def user_certificate(self, principal: str) -> Any:
        raise NotFound(
            f"there is no authority for {principal!r}", remedy="Give the suite's driver its own 'connect'."
        )


async def _gather(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
