"""Machines kept ready for a course's lectures: made ahead, handed to who comes, ended when nobody does."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gridcloud.instances.handing import is_waiting
from gridcloud.instances.model import Instance, Reason, State
from gridcloud.service.house import House
from tests.houses import ended, here, machines, story
from tests.labs.machines import Machine
from tests.sessions.lectures import SEATS, MovedClock, ask, open_course, ready, seats_of
from tests.sessions.visit import PLAN, fetch, over


async def end_all(house: House) -> None:
    """Have sessions and seats end, and see that nothing is left."""
    for session in await house.sessions.lives.live():
        await house.sessions.stop(session.id)
        await over(house, session)
    for instance in await house.instances.records.live():
        await house.instances.stop(instance.id)
        await ended(house, instance.id)
    assert await house.providers.get("there").holdings() == []
    assert await house.reconciliation.examine() == []


async def told(house: House) -> str:
    return await story(house, "physics")


async def test_from_the_evening_before_to_the_end_of_the_lecture(tmp_path: Path) -> None:
    clock = MovedClock()
    saving = {"before_end": "echo saved >saved"}
    async with open_course(tmp_path, clock, here(price=100), session=saving) as house:
        assert await ready(house, 0) == []
        clock.move(minutes=1)
        first, second = await ready(house, 2)
        assert await ready(house, 2) == [first, second]
        assert first.expires is not None
        assert first.expires - clock.now() < timedelta(hours=2, minutes=16), "it ends itself soon after"
        clock.move(minutes=9)

        session = await ask(house, "ada")
        assert session.instance_id in (first.id, second.id)
        assert await fetch(session) == b"here"
        theirs = await house.instances.records.get(session.instance_id)
        assert (theirs.owner, theirs.name, theirs.request.time) == ("ada", "ada", 3600)
        assert (first.before_end, theirs.before_end) == ((), ("sh", "-c", saving["before_end"]))
        assert theirs.expires is not None
        assert timedelta(minutes=59) < theirs.expires - clock.now() <= timedelta(hours=1)
        assert "Handed to ada: it had waited for 0:09:0" in await story(house, theirs.id)
        assert ", which cost " in await story(house, theirs.id)
        (left,) = await ready(house, 1)

        # Another machine is asked for than waits: one of their own is made.
        other = await ask(house, "ben", cpus=0.5)
        assert not (await house.instances.records.get(other.instance_id)).seat

        # Whose session has ended may come back.
        await house.sessions.stop(session.id)
        await over(house, session)
        assert left.id in {one.id for one in await ready(house, 2)}

        again = await ask(house, "ada")
        clock.move(hours=2, minutes=1)
        await house.seats.look()
        assert await seats_of(house) == []
        assert "1 seat that nobody took is ended; waiting cost " in await told(house)
        assert (await house.instances.records.get(again.instance_id)).state is State.READY
        await end_all(house)


async def test_the_budget_pays_and_when_it_is_used_up_no_more_are_made(tmp_path: Path) -> None:
    clock = MovedClock()
    clock.move(minutes=2)
    # A quarter of the computer at 25 an hour, for 2 h 14 min: one is paid for.
    budget = {"project": "physics", "user": "ann", "money": 75, "period": "week"}
    provider = here(price=100, cpus=1, memory="1GiB")
    async with open_course(tmp_path, clock, provider, budgets={"c": budget}) as house:
        (one,) = [seat for seat in await _settled(house) if seat.state is State.READY]
        await house.seats.look()
        assert await seats_of(house) == [one]
        assert "No more seats until the next lecture, for the budget does not pay for them" in await told(
            house
        )
        standing = (await house.treasury.standings())[0]
        assert [running.id for running in standing.usage.live] == [one.id]
        await house.instances.stop(one.id, Reason.BUDGET, "used up")
        await ended(house, one.id)
        await house.seats.look()
        assert await seats_of(house) == []
        await end_all(house)


async def _settled(house: House) -> list[Instance]:
    await house.seats.look()
    found = []
    for one in await house.instances.records.find():
        async for now in house.instances.records.follow(one.id):
            if now.state in (State.READY, State.FAILED):
                found.append(now)
                break
    return found


async def test_what_cannot_be_made_is_tried_again_with_pauses(tmp_path: Path) -> None:
    clock = MovedClock()
    clock.move(minutes=2)
    seats = {"seats": {**SEATS, "count": 1}}
    async with open_course(tmp_path, clock, here(cpus=0.1), seats) as house:
        assert [one.state for one in await _settled(house)] == [State.FAILED]
        await house.seats.look()
        assert "A seat could not be made; it is tried again, ever more seldom: " in await told(house)
        assert len(await house.instances.records.find()) == 1
        clock.move(seconds=31)
        assert len(await _settled(house)) == 2
        clock.move(seconds=31)
        await house.seats.look()
        assert len(await house.instances.records.find()) == 2
        assert (await told(house)).count("A seat could not be made") == 1
        assert (await told(house)).count("Making 1 of 1 seats") == 1
        await end_all(house)


async def test_a_claim_outlives_who_made_it_and_no_longer(tmp_path: Path) -> None:
    clock = MovedClock()
    clock.move(minutes=2)
    async with open_course(tmp_path, clock, here()) as house:
        first, second = await ready(house, 2)
        assert await house.instances.handing.claim([first], "s-of-nobody")
        assert await house.instances.handing.claim([first], "s-late") is None, "somebody was quicker"
        await house.instances.records.save(second, "told", "It goes on: what was read of it is old now.")
        claimed = await house.instances.handing.claim([second], "s-of-nobody-else")
        assert claimed is not None
        await house.instances.handing.release(second.id, "it was to be seen that it can be")
        session = await ask(house, "ada")
        assert session.instance_id == second.id
        await house.seats.look()
        freed = await house.instances.records.get(first.id)
        assert (freed.claim, is_waiting(freed)) == ("", True)
        await end_all(house)


async def test_a_seat_that_is_still_being_made_is_waited_for(tmp_path: Path) -> None:
    clock = MovedClock()
    clock.move(minutes=2)
    slow = [{"use": "script", "text": "sleep 1"}]
    profiles = {"lab": {"request": {"cpus": 0.25, "memory": "128MiB"}, "configure": slow}}
    async with open_course(tmp_path, clock, here(), profiles=profiles) as house:
        await house.seats.look()
        seats = {one.id for one in await seats_of(house)}
        session = await house.sessions.submit(
            "ada", (await seats_of(house))[0].request, PLAN, configure=slow, course="physics"
        )
        session = await house.sessions.wait(session.id)
        assert session.instance_id in seats, "\n".join(
            [await story(house, one) for one in (session.id, *seats)]
        )
        # One that is stopped while it waits for its seat leaves that to others.
        await house.instances.stop((await seats_of(house))[0].id)
        await house.seats.look()
        (fresh,) = await seats_of(house)
        late = await house.sessions.submit("ben", fresh.request, PLAN, configure=slow, course="physics")
        async for now in house.instances.records.follow(fresh.id):
            if now.claim:
                break
        await house.sessions.stop(late.id)
        await over(house, late)
        assert (await ready(house, 1))[0].claim == ""
        await end_all(house)


KILLED = """
import asyncio, pathlib, sys
from tests.sessions.lectures import MovedClock, open_course
from tests.houses import here
async def main():
    clock = MovedClock(); clock.move(minutes=2)
    slow = [{"use": "script", "text": "sleep 2"}]
    profiles = {"lab": {"request": {"cpus": 0.25, "memory": "128MiB"}, "configure": slow}}
    async with open_course(pathlib.Path(sys.argv[1]), clock, here(), profiles=profiles) as house:
        await house.seats.look()
        print("asked", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_killed_in_between_neither_makes_more_nor_forgets_any(tmp_path: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    try:
        async with asyncio.timeout(200):
            assert await program.stdout.readline() == b"asked\n"
    finally:
        program.send_signal(signal.SIGKILL)
        await program.wait()
    clock = MovedClock()
    clock.move(minutes=3)
    slow = [{"use": "script", "text": "sleep 2"}]
    profiles = {"lab": {"request": {"cpus": 0.25, "memory": "128MiB"}, "configure": slow}}
    async with open_course(tmp_path, clock, here(), profiles=profiles) as house:
        assert len(await ready(house, 2)) == 2
        assert len(await house.instances.records.find()) == 2
    # Nobody is there at the end of the lecture; whoever comes later ends them.
    clock.move(hours=3)
    async with open_course(tmp_path, clock, here(), profiles={}, courses={}) as house:
        for one in await house.instances.records.find():
            await ended(house, one.id)
        assert await house.providers.get("there").holdings() == []


@pytest.mark.needs_root
async def test_on_a_machine_the_files_become_the_members(tmp_path: Path, ssh_machine: Machine) -> None:
    clock = MovedClock(datetime.now(UTC))  # the machine judges certificates by its own
    today = {
        "seats": {
            **SEATS,
            "days": f"{clock.now():%A}",
            "opens": "00:00",
            "closes": "23:59",
            "time_zone": "UTC",
        }
    }
    made = [{"use": "script", "text": "echo ahead >made; mkdir -p deep/er; echo too >deep/er/made"}]
    profiles = {"lab": {"request": {"cpus": 0.25, "memory": "128MiB"}, "configure": made}}
    async with open_course(tmp_path, clock, machines(ssh_machine), today, profiles=profiles) as house:
        first, _ = await ready(house, 2)
        accounts = ssh_machine.execute("sh", "-c", "getent passwd | grep -c ^gc-").strip()
        session = await house.sessions.submit("ada", first.request, PLAN, configure=made, course="physics")
        async with asyncio.timeout(60):
            session = await house.sessions.wait(session.id)
        assert await fetch(session) == b"here"
        seat = await house.instances.records.get(session.instance_id)
        assert seat.seat == "physics", await story(house, session.id)
        assert seat.handle is not None
        place, account = seat.handle.data["place"], seat.handle.data["account"]
        owners = ssh_machine.execute("find", f"{place}/files/made", f"{place}/files/deep", "-printf", "%u\n")
        assert set(owners.split()) == {account}
        assert accounts == "1"
        (left,) = await seats_of(house)
        session = await house.sessions.submit("ben", left.request, PLAN, configure=made, course="physics")
        async with asyncio.timeout(60):
            await house.sessions.wait(session.id)
        # The account of nobody went with the last seat that was its own.
        names = ssh_machine.execute("sh", "-c", "getent passwd | grep ^gc- | cut -d: -f1").split()
        assert len(names) == 2
        assert left.handle is not None
        assert left.handle.data["account"] not in names
        await end_all(house)
