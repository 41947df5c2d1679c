"""Machines reached by SSH as a provider: the contract on real machines, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.labs.fixtures import StartMachine
from tests.labs.machines import Lab, Machine

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address, SSHAddress
from gridcloud.connections.ssh import SSHConnection, Timing
from gridcloud.drivers.instances.ssh import SSHDriver
from gridcloud.drivers.instances.ssh_settings import SSHSettings
from gridcloud.errors import Forbidden, NoCapacity, Transient, Untrusted
from gridcloud.instances.driver import Context, Expiring, InstanceDriver
from gridcloud.instances.model import Handle, Observation, Offer, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, read_output

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = pytest.mark.needs_root

SMALL = Request(cpus=1, memory=64 * 1024**2)


class Keys:
    """Our credentials: one private key, and one authority that signs user certificates."""

    patience = 5.0

    def __init__(self, private_key: Path) -> None:
        self.own = asyncssh.read_private_key(private_key)
        self.authority = asyncssh.generate_private_key("ssh-ed25519")

    async def private_key(self, reference: str) -> asyncssh.SSHKey:
        return asyncssh.read_private_key(reference.removeprefix("file:")) if reference else self.own

    async def user_certificate(self, principal: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        key = asyncssh.generate_private_key("ssh-ed25519")
        certificate = self.authority.generate_user_certificate(key, principal, principals=[principal])
        return key, certificate

    async def connect(self, address: Address) -> Connection:
        assert isinstance(address, SSHAddress)
        return await SSHConnection.open(address, self, Timing(connect=self.patience))


@pytest.fixture
def keys(ssh_lab: Lab) -> Keys:
    return Keys(ssh_lab.private_key)


Make = Callable[..., SSHDriver]


@pytest.fixture
async def make(keys: Keys, tmp_path: Path) -> AsyncIterator[Make]:
    """Make a driver for some hosts, closed afterwards."""
    made: list[SSHDriver] = []

    def make_driver(*hosts: dict[str, Any], installation: str = "test", **settings: Any) -> SSHDriver:
        folder = tmp_path / f"provider-{installation}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Two, as while a rotation is prepared: the one that signs is not the first.
        known = (asyncssh.generate_private_key("ssh-ed25519"), keys.authority)
        authority = "\n".join(one.export_public_key().decode().strip() for one in known)
        context = Context("pool", installation, folder, keys.connect, authority)
        values = {"driver": "ssh", "hosts": hosts, "keep_homes": False, **settings}
        made.append(SSHDriver(SSHSettings.model_validate(values), context))
        return made[-1]

    yield make_driver
    for driver in made:
        await driver.close()


def entry(machine: Machine, **more: Any) -> dict[str, Any]:
    return {"host": machine.host, "user": machine.user, "host_keys": machine.host_key, **more}


def spec_for(offer: Offer, owner: str = "ada", request: Request = SMALL) -> Spec:
    return Spec(id=f"t-{secrets.token_hex(5)}", owner=owner, request=request, offer=offer)


async def make_one(
    driver: SSHDriver, owner: str = "ada", request: Request = SMALL
) -> tuple[Spec, Handle, SSHAddress]:
    offers = await driver.offers(request)
    assert offers[0].available, offers[0].why_not
    spec = spec_for(offers[0], owner, request)
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert isinstance(seen.address, SSHAddress)
    return spec, handle, seen.address


@pytest.fixture(scope="class")
def shared_machine(ssh_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """One machine for a class of tests that leave nothing on it."""
    options = {"root_login": request.cls.root_login}
    machine = asyncio.run(ssh_lab.start(ssh_lab.unused_name(), **options))
    yield machine
    left = machine.execute(
        "sh",
        "-c",
        "ls -d /var/lib/gridcloud/*/instances/* /home/user/.gridcloud/*/instances/* 2>/dev/null || :",
    )
    ssh_lab.stop(machine)
    assert not left


class TestRoot(InstanceDriverContract):
    """Accounts per owner, by root."""

    root_login = True

    @pytest.fixture
    async def driver(self, shared_machine: Machine, make: Make) -> InstanceDriver:
        return make(entry(shared_machine), reserve={"memory": "1GiB"})


class TestSudo:
    """Accounts per owner, by an account that may use sudo."""

    async def test_owner_has_an_account(self, start_machine: StartMachine, make: Make, keys: Keys) -> None:
        machine = await start_machine(root_login=False)
        driver = make(entry(machine), accounts="per-owner")
        spec, handle, address = await make_one(driver)
        assert address.user.startswith("gc-")
        connection = await keys.connect(address)
        assert await read_output(connection, "id", "-un") == f"{address.user}\n"
        await connection.close()
        await driver.destroy(spec.id, handle)
        assert "gc-" not in machine.execute("cat", "/etc/passwd")


class TestLogin(InstanceDriverContract):
    """One account for all, and so one owner at a time."""

    root_login = False

    @pytest.fixture
    async def driver(self, shared_machine: Machine, make: Make) -> InstanceDriver:
        return make(entry(shared_machine), accounts="login", reserve={"memory": "1GiB"})

    async def test_two_owners_beside_each_other(self, driver: InstanceDriver) -> None:
        """Differs from the contract: who shares an account could read the other's files."""
        one, other = await self.spec(driver), await self.spec(driver, owner="grace")
        handle = await driver.create(one)
        with pytest.raises(NoCapacity, match="another owner has this host"):
            await driver.create(other)
        await driver.destroy(other.id, None)
        assert await self.held(driver) == [one.id]
        await driver.create(await self.spec(driver))
        assert (await self.running(driver, one, handle)).phase is Phase.RUNNING


# Whom to trust


async def test_wrong_host_key_is_refused(ssh_machine: Machine, make: Make) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    driver = make(entry(ssh_machine, host_keys=other))
    with pytest.raises(Untrusted, match="HOST KEY MISMATCH"):
        await driver.offers(SMALL)
    (finding,) = await driver.check()
    shown = asyncssh.import_public_key(ssh_machine.host_key).get_fingerprint()
    assert not finding.ok
    assert shown in finding.message
    assert asyncssh.import_public_key(other).get_fingerprint() in finding.message


async def test_unpinned_host_shows_its_key_in_the_check_only(ssh_machine: Machine, make: Make) -> None:
    driver = make({"host": ssh_machine.host, "user": "root"})
    (finding,) = await driver.check()
    assert not finding.ok
    assert asyncssh.import_public_key(ssh_machine.host_key).get_fingerprint() in finding.message
    assert " ".join(ssh_machine.host_key.split()[:2]) in finding.remedy


async def test_wrong_user_key_is_refused(ssh_machine: Machine, make: Make, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "wrong")
    driver = make(entry(ssh_machine), key=f"file:{tmp_path / 'wrong'}")
    with pytest.raises(Forbidden):
        await driver.offers(SMALL)
    (finding,) = await driver.check()
    assert not finding.ok
    assert "authorized_keys" in finding.remedy


async def test_hashed_known_hosts_file_pins(ssh_machine: Machine, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(ssh_machine.known_hosts_line())
    _run("ssh-keygen", "-q", "-H", "-f", str(file))
    assert ssh_machine.host not in file.read_text()
    driver = make({"host": ssh_machine.host, "user": "root"}, known_hosts=file)
    assert all(finding.ok for finding in await driver.check())


async def test_only_certificates_of_ours_open_an_owners_account(
    ssh_machine: Machine, make: Make, keys: Keys
) -> None:
    driver = make(entry(ssh_machine))
    _, _, ada = await make_one(driver)
    _, _, grace = await make_one(driver, owner="grace")
    with pytest.raises(Forbidden):
        await keys.connect(ada.model_copy(update={"principal": grace.principal}))
    with pytest.raises(Forbidden):
        await keys.connect(ada.model_copy(update={"principal": ""}))


# Machines that are away


async def test_silent_host_is_an_offer_with_its_reason(
    start_machine: StartMachine, make: Make, keys: Keys
) -> None:
    here, away = await start_machine(), await start_machine()
    driver = make(entry(here, price=2), entry(away, price=1))
    on_away, handle_away, _ = await make_one(driver)
    assert on_away.offer.choice == {"host": away.host}
    await driver.close()
    away.kill()
    keys.patience = 0.5
    free, silent = await driver.offers(SMALL)
    assert free.choice == {"host": here.host}
    assert not silent.available
    assert away.host in silent.why_not
    on_here, handle_here, _ = await make_one(driver)
    seen = await driver.observe({on_away.id: handle_away, on_here.id: handle_here})
    assert seen[on_here.id].phase is Phase.RUNNING
    assert seen[on_away.id].phase is Phase.PENDING
    assert away.host in seen[on_away.id].detail
    with pytest.raises(Transient):
        await driver.observe({on_away.id: handle_away})
    with pytest.raises(Transient):
        await driver.destroy(on_away.id, handle_away)
    with pytest.raises(Transient):
        await driver.holdings()
    # What was only asked of the other host is removed without this one.
    await driver.destroy(on_here.id, None)
    wrong = next(finding for finding in await driver.check() if not finding.ok)
    assert wrong.subject == away.host


async def test_lost_connection_is_opened_again(ssh_machine: Machine, make: Make) -> None:
    driver = make(entry(ssh_machine))
    spec, handle, _ = await make_one(driver)
    ssh_machine.execute("sh", "-c", "kill $(ps -eo pid,args | awk '/sshd: root@/ && !/awk/ {print $1}')")
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING


async def test_machine_behind_another(start_machine: StartMachine, make: Make, keys: Keys) -> None:
    jump = await start_machine()
    hidden = await start_machine(behind=jump)
    driver = make(entry(hidden, jump=entry(jump)))
    spec, handle, address = await make_one(driver)
    connection = await keys.connect(address)
    assert await read_output(connection, "pwd") == f"{address.directory}\n"
    await connection.close()
    await driver.destroy(spec.id, handle)
    (finding,) = await make({"host": hidden.host, "user": "root", "jump": entry(jump)}).check()
    assert asyncssh.import_public_key(hidden.host_key).get_fingerprint() in finding.message


async def test_machine_that_started_anew_has_lost_its_instances(ssh_machine: Machine, make: Make) -> None:
    driver = make(entry(ssh_machine, cpus=1))
    spec, handle, _ = await make_one(driver)
    # A start of the machine changes this word; the disk, and so the rest, stays.
    ssh_machine.execute(
        "sh", "-c", 'sed -i "s/ [^ ]*-[0-9]* \\([0-9]*\\)$/ another-boot \\1/" "$1"', "sh", _spec(spec)
    )
    seen: Observation = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.GONE
    assert "started anew" in seen.detail
    assert [holding.instance_id for holding in await driver.holdings()] == [spec.id]
    assert (await driver.offers(SMALL))[0].available
    await driver.destroy(spec.id, handle)
    assert "gc-" not in ssh_machine.execute("cat", "/etc/passwd")


async def test_host_that_left_the_configuration_is_still_cleaned(
    start_machine: StartMachine, make: Make
) -> None:
    here, gone = await start_machine(), await start_machine()
    spec, handle, _ = await make_one(make(entry(gone)))
    driver = make(entry(here))
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    await driver.destroy(spec.id, handle)
    assert "gc-" not in gone.execute("cat", "/etc/passwd")


# Shares


async def test_two_installations_race_for_the_last_share(ssh_machine: Machine, make: Make) -> None:
    one, other = make(entry(ssh_machine)), make(entry(ssh_machine), installation="other")
    most = Request(cpus=2, memory=64 * 1024**2)
    offers = await one.offers(most), await other.offers(most)
    results = await asyncio.gather(
        one.create(spec_for(offers[0][0], request=most)),
        other.create(spec_for(offers[1][0], request=most)),
        return_exceptions=True,
    )
    assert sorted((type(result) for result in results), key=str) == sorted([Handle, NoCapacity], key=str)
    assert len([*await one.holdings(), *await other.holdings()]) == 1


async def test_full_disk_is_no_capacity(start_machine: StartMachine, make: Make) -> None:
    machine = await start_machine(disk="64m")
    driver = make(entry(machine))
    spec = spec_for((await driver.offers(SMALL))[0])
    machine.execute("sh", "-c", "head -c 60m /dev/zero >/var/full || :")
    with pytest.raises(NoCapacity, match="MiB are free"):
        await driver.create(spec)
    assert "disk" in (await driver.offers(SMALL.model_copy(update={"disk": 1024**3})))[0].why_not
    assert not all(finding.ok for finding in await driver.check())
    await driver.destroy(spec.id, None)
    assert not await driver.holdings()


async def test_gpus_are_given_once(start_machine: StartMachine, make: Make, keys: Keys) -> None:
    machine = await start_machine(files={"/usr/local/bin/nvidia-smi": NVIDIA_SMI})
    machine.execute("chmod", "755", "/usr/local/bin/nvidia-smi")
    driver = make(entry(machine))
    one = SMALL.model_copy(update={"gpus": 1, "gpu_model": "h100", "gpu_memory": 70 * 1024**3, "cpus": 0.5})
    visible = []
    for owner in ("ada", "grace"):
        _, _, address = await make_one(driver, owner, one)
        connection = await keys.connect(address)
        visible.append(await read_output(connection, "printenv", "CUDA_VISIBLE_DEVICES"))
        await connection.close()
    assert sorted(visible) == ["GPU-0a\n", "GPU-0b\n"]
    (offer,) = await driver.offers(one)
    assert not offer.available
    assert "GPUs are free" in offer.why_not
    (offer,) = await driver.offers(one.model_copy(update={"gpus": 3}))
    assert not offer.possible
    with pytest.raises(NoCapacity, match="GPUs are free"):
        await driver.create(spec_for(offer, request=one))


# What is left, and who may see it


async def test_everything_an_owner_started_ends(ssh_machine: Machine, make: Make, keys: Keys) -> None:
    driver = make(entry(ssh_machine))
    spec, handle, address = await make_one(driver)
    connection = await keys.connect(address)
    # Children in sessions of their own, without the environment that names them, one deaf to signals.
    text = (
        "setsid env -i sleep 1001 & setsid sh -c 'trap \"\" HUP TERM INT; sleep 1002; sleep 1003' & "
        "(setsid sh -c 'while :; do sleep 0.01; done' &) ; echo started; sleep 1004"
    )
    process = await connection.start(Command(("sh", "-c", text)))
    assert await anext(process.stdout()) == b"started\n"
    await driver.destroy(spec.id, handle)
    await connection.close()
    assert address.user not in ssh_machine.execute("ps", "-eo", "user:20,args")
    assert "sleep" not in ssh_machine.execute("ps", "-eo", "stat,args").replace("Z ", "")
    assert address.user not in ssh_machine.execute("cat", "/etc/passwd", "/etc/group", "/etc/shadow")
    assert ssh_machine.execute(
        "ls", "/var/lib/gridcloud/homes", "/var/lib/gridcloud/test/instances"
    ).split() == [
        "/var/lib/gridcloud/homes:",
        "/var/lib/gridcloud/test/instances:",
    ]


async def test_one_instance_of_two_leaves_the_other_alone(
    ssh_machine: Machine, make: Make, keys: Keys
) -> None:
    driver = make(entry(ssh_machine))
    first, second = await make_one(driver), await make_one(driver)
    connection = await keys.connect(second[2])
    process = await connection.start(Command(("sleep", "1000")))
    await driver.destroy(first[0].id, first[1])
    assert (await driver.observe({second[0].id: second[1]}))[second[0].id].phase is Phase.RUNNING
    assert "sleep 1000" in ssh_machine.execute("ps", "-eo", "args")
    await driver.destroy(second[0].id, second[1])
    await connection.close()
    del process


async def test_owners_cannot_touch_each_other(ssh_machine: Machine, make: Make, keys: Keys) -> None:
    driver = make(entry(ssh_machine))
    _, _, ada = await make_one(driver)
    _, _, grace = await make_one(driver, owner="grace")
    ours, theirs = await keys.connect(ada), await keys.connect(grace)
    await read_output(ours, "sh", "-c", "umask 0; echo secret >mine; echo secret >~/mine")
    process = await ours.start(Command(("sh", "-c", "echo $$; exec sleep 1000")))
    pid = (await anext(process.stdout())).decode().strip()
    home = (await read_output(ours, "sh", "-c", "echo ~")).strip()
    for words in (
        ("ls", ada.directory),
        ("cat", f"{ada.directory}/mine"),
        ("cat", f"{home}/mine"),
        ("kill", pid),
        ("cat", f"/proc/{pid}/environ"),
        ("cat", "/var/lib/gridcloud/lock"),
        ("ls", "/var/lib/gridcloud/test/instances"),
        ("sudo", "-n", "true"),
    ):
        attempt = await theirs.start(Command(words))
        assert await attempt.wait() != 0, words
    assert "sleep 1000" in ssh_machine.execute("ps", "-eo", "args")
    await ours.close()
    await theirs.close()


async def test_owner_joins_a_control_group_of_version_2(ssh_machine: Machine, make: Make, keys: Keys) -> None:
    ssh_machine.execute(
        "sh",
        "-c",
        "umount -l /sys/fs/cgroup/*; umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup",
    )
    driver = make(entry(ssh_machine))
    spec, handle, ada = await make_one(driver)
    other, other_handle, grace = await make_one(driver, owner="grace")
    ours, theirs = await keys.connect(ada), await keys.connect(grace)
    assert f"0::/gridcloud/{spec.id}\n" in await read_output(ours, "cat", "/proc/self/cgroup")
    assert f"0::/gridcloud/{other.id}\n" in await read_output(theirs, "cat", "/proc/self/cgroup")
    for words in (
        ("sudo", "-n", "true"),
        ("sudo", "-n", f"{ada.directory}/../adopt", "1"),
        ("sudo", "-n", str(Path(ada.directory).parent / "adopt"), "1"),
        ("sudo", "-n", str(Path(grace.directory).parent / "adopt"), "1"),
    ):
        attempt = await theirs.start(Command(words))
        assert await attempt.wait() != 0, words
    await driver.destroy(spec.id, handle)
    await driver.destroy(other.id, other_handle)
    await ours.close()
    await theirs.close()
    assert "gridcloud-t-" not in ssh_machine.execute("ls", "/etc/sudoers.d")
    ssh_machine.execute("sh", "-c", "rmdir /sys/fs/cgroup/gridcloud || :")


async def test_links_in_a_home_do_not_lead_root_astray(ssh_machine: Machine, make: Make, keys: Keys) -> None:
    driver = make(entry(ssh_machine))
    _, _, address = await make_one(driver)
    before = ssh_machine.execute("cat", "/root/.ssh/authorized_keys")
    connection = await keys.connect(address)
    await read_output(connection, "sh", "-c", "rm -rf ~/.ssh; ln -s /root/.ssh ~/.ssh; ln -s /root away")
    await connection.close()
    again = await make_one(driver)
    assert ssh_machine.execute("cat", "/root/.ssh/authorized_keys") == before
    await (await keys.connect(again[2])).close()
    for holding in await driver.holdings():
        await driver.destroy(holding.instance_id, holding.handle)
    assert ssh_machine.execute("cat", "/root/.ssh/authorized_keys") == before


async def test_home_is_kept_when_asked_and_nobody_gets_in(
    ssh_machine: Machine, make: Make, keys: Keys
) -> None:
    driver = make(entry(ssh_machine), keep_homes=True)
    spec, handle, address = await make_one(driver)
    connection = await keys.connect(address)
    await read_output(
        connection, "sh", "-c", "echo kept >~/mine; echo my key >~/.ssh/id_mine; echo evil >~/.ssh/rc"
    )
    await connection.close()
    await driver.destroy(spec.id, handle)
    with pytest.raises(Forbidden):
        await keys.connect(address)
    _, _, again = await make_one(driver)
    connection = await keys.connect(again)
    assert await read_output(connection, "sh", "-c", "cat ~/mine ~/.ssh/id_mine") == "kept\nmy key\n"
    assert (
        await read_output(connection, "ls", f"/var/lib/gridcloud/homes/{again.user}/.ssh")
        == "authorized_keys\nid_mine\n"
    )
    await connection.close()


async def test_nothing_of_a_guest_is_kept(ssh_machine: Machine, make: Make, keys: Keys) -> None:
    driver = make(entry(ssh_machine), keep_homes=True)
    offers = await driver.offers(SMALL)
    spec = spec_for(offers[0], "ada@partner").model_copy(update={"guest": True})
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert isinstance(seen.address, SSHAddress)
    home = f"/var/lib/gridcloud/homes/{seen.address.user}"
    assert "authorized_keys" in ssh_machine.execute("ls", f"{home}/.ssh")
    await driver.destroy(spec.id, handle)
    assert seen.address.user not in ssh_machine.execute("cat", "/etc/passwd")
    assert seen.address.user not in ssh_machine.execute("ls", "/var/lib/gridcloud/homes")


async def test_instance_ends_itself(ssh_machine: Machine, make: Make) -> None:
    driver = make(entry(ssh_machine))
    assert isinstance(driver, Expiring)
    spec, handle, address = await make_one(driver)
    await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(hours=1))
    await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(hours=2))
    assert ssh_machine.execute("ps", "-eo", "args").count("sleep 30") == 1
    await driver.destroy(spec.id, handle)
    assert "sleep 30" not in ssh_machine.execute("ps", "-eo", "args")
    spec, handle, address = await make_one(driver)
    await driver.arm(spec.id, handle, datetime.now(UTC))
    await driver.close()
    wait = 'while [ -e "$1" ] && [ $((i += 1)) -lt 900 ]; do sleep 0.1; done'
    ssh_machine.execute("sh", "-c", wait, "sh", str(Path(_spec(spec)).parent))
    assert address.user not in ssh_machine.execute("cat", "/etc/passwd")
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
async def test_broken_off_while_it_is_made_leaves_nothing(
    ssh_machine: Machine, make: Make, seconds: float
) -> None:
    driver = make(entry(ssh_machine))
    spec = spec_for((await driver.offers(SMALL))[0])
    making = asyncio.create_task(driver.create(spec))
    await asyncio.sleep(seconds)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await driver.close()
    again = make(entry(ssh_machine))
    await again.destroy(spec.id, None)
    assert not await again.holdings()
    assert "gc-" not in ssh_machine.execute("cat", "/etc/passwd", "/etc/group")
    await make_one(again)


async def test_ten_at_once_have_their_shares(ssh_machine: Machine, make: Make) -> None:
    driver = make(entry(ssh_machine, cpus=8))
    offer = (await driver.offers(SMALL))[0]
    specs = [spec_for(offer, owner=f"owner {number}") for number in range(10)]
    results = await asyncio.gather(*(driver.create(spec) for spec in specs), return_exceptions=True)
    assert [type(result) for result in results].count(Handle) == 8
    assert [type(result) for result in results].count(NoCapacity) == 2
    holdings = await driver.holdings()
    assert len(holdings) == 8
    await asyncio.gather(*(driver.destroy(spec.id, None) for spec in specs))
    assert not await driver.holdings()
    assert "gc-" not in ssh_machine.execute("cat", "/etc/passwd")


async def test_half_made_instance_is_held_and_removed(ssh_machine: Machine, make: Make) -> None:
    driver = make(entry(ssh_machine))
    spec, handle, _ = await make_one(driver)
    folder = str(Path(_spec(spec)).parent)
    ssh_machine.execute("sh", "-c", 'rm -rf "$1"/ready "$1"/enter "$1"/leave "$1"/files', "sh", folder)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.PENDING
    (holding,) = await driver.holdings()
    await driver.destroy(holding.instance_id, None)
    assert not await driver.holdings()
    assert "gc-" not in ssh_machine.execute("cat", "/etc/passwd")


NVIDIA_SMI = """\
#!/bin/sh
# As the real one answers for three GPUs.
[ "$*" = "--query-gpu=uuid,memory.total,name --format=csv,noheader,nounits" ] || exit 1
echo "GPU-0a, 81559, NVIDIA H100 80GB HBM3"
echo "GPU-0b, 81559, NVIDIA H100 80GB HBM3"
echo "GPU-0c, 15360, Tesla T4"
"""


def _spec(spec: Spec) -> str:
    return f"/var/lib/gridcloud/test/instances/{spec.id}/spec"


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
