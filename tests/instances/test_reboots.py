"""A machine that was started again is noticed, and told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.houses import end, ended, machines, obtain, open_house, story
from tests.labs.machines import Machine

from gridcloud.connections.driver import Command
from gridcloud.instances.model import Reason


async def test_another_start_is_told_once(tmp_path: Path, ssh_machine: Machine) -> None:
    async with open_house(tmp_path, {"pool": machines(ssh_machine)}) as house:
        house.instances.timing = replace(house.instances.timing, watch=0.2)
        instance = await obtain(house)
        async with asyncio.timeout(30):
            async for now in house.instances.records.follow(instance.id):
                if now.boot:
                    break
        boot = now.boot
        assert len(boot) == 36
        # The lab's machines share one kernel: as if it had been another one until now.
        await house.instances.records.save(now, "", "", boot="another")
        await house.links.drop(instance.id)
        async with asyncio.timeout(30):
            async for now in house.instances.records.follow(instance.id):
                if now.boot == boot:
                    break
        await asyncio.sleep(1)
        assert (await story(house, instance.id)).count("rebooted: The machine was started again") == 1
        await end(house, now)


async def test_a_share_of_a_machine_that_nobody_uses_ends_beside_one_that_works(
    tmp_path: Path, ssh_machine: Machine
) -> None:
    async with open_house(tmp_path, {"pool": machines(ssh_machine)}) as house:
        house.instances.timing = replace(house.instances.timing, watch=0.2)
        busy = await obtain(house)
        assert busy.address
        connection = await house.links.get(busy.id, busy.address)
        work = await connection.start(Command(("sh", "-c", "while :; do :; done")))
        idle = await obtain(house, idle=2)
        assert (await ended(house, idle.id)).reason is Reason.IDLE
        await work.signal("KILL")
        await work.wait()
        await end(house, busy)
