"""What a provider cannot or must not give: images, hosts, keys, space, the last slot."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridcloud.connections.driver import Connection
from gridcloud.errors import ConfigurationFailed, GridcloudError, NoOffer, Rejected, StorageFull
from gridcloud.instances.model import Reason, Request, State
from tests.houses import containers, end, ended, link, machines, obtain, open_house, story
from tests.labs.containers import TINY_IMAGE, Engine
from tests.labs.fixtures import StartMachine
from tests.labs.machines import Machine

pytestmark = pytest.mark.needs_root

MISSING = "127.0.0.1:1/none/image:1"


def fingerprint(line: str) -> str:
    return asyncssh.import_public_key(line).get_fingerprint()


@pytest.mark.parametrize("pull", ["never", "missing"])
async def test_an_image_that_does_not_exist(tmp_path: Path, podman_engine: Engine, pull: str) -> None:
    provider = containers(podman_engine, images=["*"], pull=pull)
    async with open_house(tmp_path, {"boxes": provider}) as house:
        with pytest.raises(NoOffer) as refusal:
            await obtain(house, image=MISSING)
        assert MISSING in str(refusal.value)
        assert TINY_IMAGE in str(refusal.value)
        assert await house.providers.get("boxes").holdings() == []


async def test_an_image_that_one_provider_lacks_is_had_elsewhere(
    tmp_path: Path, podman_engine: Engine
) -> None:
    providers = {
        "cheap": containers(podman_engine, MISSING, pull="missing"),
        "good": containers(podman_engine, price=1),
    }
    async with open_house(tmp_path, providers) as house:
        instance = await obtain(house)
        assert instance.offer is not None
        assert instance.offer.provider == "good"
        [refused] = instance.refused
        assert MISSING in refused.why_not
        await end(house, instance)


async def test_a_host_that_is_unreachable_holds_nobody_up(
    tmp_path: Path, start_machine: StartMachine
) -> None:
    dead, well = await start_machine(), await start_machine()
    dead.cut()
    async with open_house(tmp_path, {"dead": machines(dead), "well": machines(well, price=1)}) as house:
        async with asyncio.timeout(30):
            instance = await obtain(house)
            assert instance.offer is not None
            assert instance.offer.provider == "well"
            with pytest.raises(NoOffer, match="did not answer") as refusal:
                await obtain(house, on="dead")
        assert dead.host in str(refusal.value)
        await house.instances.stop(instance.id)
        await ended(house, instance.id)
        assert await house.providers.get("well").holdings() == []


async def test_a_wrong_host_key_is_refused_loudly(tmp_path: Path, ssh_machine: Machine) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    provider = machines(ssh_machine)
    provider["hosts"][0]["host_keys"] = other
    async with open_house(tmp_path, {"pool": provider}) as house:
        with pytest.raises(NoOffer) as refusal:
            await obtain(house)
        for word in ("HOST KEY MISMATCH", ssh_machine.host, fingerprint(other)):
            assert word in str(refusal.value)
        assert fingerprint(ssh_machine.host_key) in str(refusal.value)
        findings = await house.providers.get("pool").check()
        assert any(not one.ok and fingerprint(ssh_machine.host_key) in one.message for one in findings)
    assert "accepted" not in ssh_machine.log.read_text().lower()


async def test_a_host_key_that_changes_later_is_refused_too(tmp_path: Path, ssh_machine: Machine) -> None:
    async with open_house(tmp_path, {"pool": machines(ssh_machine)}) as house:
        instance = await obtain(house)
        there = await link(house, instance)
        ssh_machine.execute("sh", "-c", NEW_HOST_KEY)
        async with asyncio.timeout(30):
            said = await refused(there)
        assert "HOST KEY MISMATCH" in said
        assert ssh_machine.host in said
        ssh_machine.execute("sh", "-c", OLD_HOST_KEY)
        await house.links.drop(instance.id)
        await end(house, instance)


async def refused(there: Connection) -> str:
    """Return why a connection is refused, once it is no longer being opened again."""
    while True:
        try:
            await there.check()
        except Rejected as error:
            return str(error)
        except GridcloudError:
            pass
        await asyncio.sleep(0.1)


# sshd reads its keys anew on HUP; those who serve connections are ended.
NEW_HOST_KEY = """
cd /etc/ssh && cp -p ssh_host_ed25519_key old-key && rm ssh_host_ed25519_key* &&
ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key &&
kill -HUP $(cat /run/sshd.pid) && sleep 0.3
exec 2>/dev/null
for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline 2>/dev/null) in
  'sshd: gc-'* | 'sshd: root'*) kill -KILL ${p#/proc/} ;; esac; done; :
"""
OLD_HOST_KEY = (
    "cd /etc/ssh && mv -f old-key ssh_host_ed25519_key && kill -HUP $(cat /run/sshd.pid) && sleep 0.3"
)


async def test_a_wrong_user_key_is_told(tmp_path: Path, ssh_machine: Machine) -> None:
    wrong = tmp_path / "key"
    wrong.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    wrong.chmod(0o600)
    async with open_house(tmp_path, {"pool": machines(ssh_machine, key=f"file:{wrong}")}) as house:
        with pytest.raises(NoOffer) as refusal:
            await obtain(house)
        assert f"{ssh_machine.host}:22 does not let 'root' in" in str(refusal.value)
        assert str(wrong) in str(refusal.value)
        assert "PRIVATE KEY" not in str(refusal.value)


async def test_a_full_disk_refuses_an_instance_with_a_sentence(
    tmp_path: Path, start_machine: StartMachine
) -> None:
    machine = await start_machine(disk="64m")
    machine.execute("sh", "-c", "dd if=/dev/zero of=/var/fill bs=1M 2>/dev/null || :")
    async with open_house(tmp_path, {"pool": machines(machine)}) as house:
        with pytest.raises(NoOffer, match=r"MiB are free in /var/lib/gridcloud|[Nn]o space"):
            await obtain(house)
        assert await house.providers.get("pool").holdings() == []
        machine.execute("rm", "/var/fill")
        await end(house, await obtain(house))


async def test_a_full_disk_refuses_a_file_and_keeps_no_part_of_it(
    tmp_path: Path, start_machine: StartMachine
) -> None:
    machine = await start_machine(disk="64m")
    (tmp_path / "big").write_bytes(bytes(80 << 20))
    async with open_house(tmp_path, {"pool": machines(machine)}) as house:
        instance = await obtain(house)
        there = await link(house, instance)
        with pytest.raises(StorageFull):
            await there.put(tmp_path / "big", "big")
        free = int(machine.execute("df", "--output=avail", "/var").split()[1])
        assert free > 30_000
        await end(house, instance)


async def test_of_two_who_ask_for_the_last_slot_one_gets_it(
    tmp_path: Path, elsewhere: dict[str, Any]
) -> None:
    if elsewhere["driver"] == "ssh":
        elsewhere["hosts"][0]["cpus"] = 1
    provider = elsewhere | ({} if elsewhere["driver"] == "ssh" else {"cpus": 1})
    async with open_house(tmp_path, {"there": provider}) as house:
        results = await asyncio.gather(
            *(obtain(house, owner, cpus=1) for owner in ("ada", "bob")), return_exceptions=True
        )
        [refusal] = [result for result in results if isinstance(result, NoOffer)]
        [instance] = [result for result in results if not isinstance(result, BaseException)]
        assert "CPUs are free" in str(refusal) or "CPUs and" in str(refusal)
        await end(house, instance)
        await end(house, await obtain(house, "bob", cpus=1))


async def test_a_configurer_that_fails_is_told_with_what_it_said(
    tmp_path: Path, elsewhere: dict[str, Any]
) -> None:
    configure = [{"use": "script", "text": "echo no such compiler >&2; exit 3"}]
    async with open_house(tmp_path, {"there": elsewhere}) as house:
        request = Request(cpus=0.25, memory=64 << 20)
        instance = await house.instances.submit("ada", request, configure=configure)
        with pytest.raises(ConfigurationFailed, match="3"):
            await house.instances.wait(instance.id)
        last = await ended(house, instance.id)
        assert (last.state, last.reason) == (State.FAILED, Reason.CONFIGURATION)
        assert "no such compiler" in await story(house, instance.id)
        assert await house.reconciliation.examine() == []
        assert await house.providers.get("there").holdings() == []
