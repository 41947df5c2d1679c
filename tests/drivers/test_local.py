"""This computer as a provider: the contract, shares, whose account, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from gridcloud.connections import local as connections_local
from gridcloud.connections import programs
from gridcloud.connections.driver import Command, TerminalSize
from gridcloud.connections.forkserver import ForkServer, Program
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import Address, LocalAddress
from gridcloud.drivers.instances import local
from gridcloud.drivers.instances.local import LocalDriver, LocalSettings
from gridcloud.drivers.instances.local_machine import GPU
from gridcloud.errors import Forbidden, NoCapacity, Rejected
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Handle, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context, read_output

OURSELVES = pwd.getpwuid(os.geteuid()).pw_name


async def connect(address: Address) -> LocalConnection:
    assert isinstance(address, LocalAddress)
    return await LocalConnection.open(address)


def make(folder: Path, **settings: object) -> LocalDriver:
    values = {"driver": "local", "memory": "512MiB"} | settings
    return LocalDriver(LocalSettings.model_validate(values), driver_context(folder, connect))


async def start(driver: LocalDriver, owner: str = OURSELVES, **asked: object) -> tuple[str, LocalAddress]:
    """Return the id and the address of a new instance."""
    request = Request.model_validate({"cpus": 0.25, "memory": "64MiB"} | asked)
    spec = Spec(
        id=f"t-{secrets.token_hex(5)}", owner=owner, request=request, offer=(await driver.offers(request))[0]
    )
    seen = (await driver.observe({spec.id: await driver.create(spec)}))[spec.id]
    assert isinstance(seen.address, LocalAddress)
    return spec.id, seen.address


class LocalContract(InstanceDriverContract):
    request_: ClassVar[Request] = Request(cpus=0.25, memory=64 * 1024**2)


class TestLocalDriver(LocalContract):
    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[LocalDriver]:
        driver = make(tmp_path / "local", allow_root=True, share_account=True)
        yield driver
        await driver.close()


@pytest.fixture
def open_folder() -> Iterator[str]:
    """A folder that every account can pass."""
    folder = tempfile.mkdtemp(prefix="gct-local-", dir="/var/tmp")
    Path(folder).chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.needs_root
class TestLocalDriverAsAnotherAccount(LocalContract):
    @pytest.fixture
    async def driver(self, tmp_path: Path, account: str, open_folder: str) -> AsyncIterator[LocalDriver]:
        driver = make(tmp_path / "local", directory=open_folder, accounts={"ada": account, "grace": account})
        yield driver
        assert [path for path in Path(open_folder).iterdir() if path.name != ".gone"] == []
        await driver.close()

    def owner_named(self, text: str) -> str:
        return "ada"


@pytest.mark.needs_root
class TestLocalDriverWhereRootHelpsIn(TestLocalDriverAsAnotherAccount):
    """As on machines with unified control groups."""

    @pytest.fixture(autouse=True)
    def _root_helps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Which control groups a machine has is decided when it boots.
        monkeypatch.setattr(connections_local, "_UNIFIED", True)

    async def test_becomes_the_account(self, driver: InstanceDriver, account: str) -> None:
        spec = await self.spec(driver)
        address = (await self.running(driver, spec, await driver.create(spec))).address
        assert isinstance(address, LocalAddress)
        connection = await connect(address)
        try:
            told = await read_output(
                connection, "sh", "-c", 'id; echo "$HOME"; pwd; grep CapEff /proc/self/status'
            )
            entry = pwd.getpwnam(account)
            assert f"uid={entry.pw_uid}({account}) gid={entry.pw_gid}" in told
            assert told.endswith(f"\n{entry.pw_dir}\n{address.directory}\nCapEff:\t0000000000000000\n")
            assert "root" not in told
            # What the user sets for a command must not reach what root does for it.
            made = Path(address.directory) / "made"
            environment = {
                "ENV": f"{made}.sh",
                "LD_PRELOAD": str(made),
                "PATH": f"{address.directory}:{os.environ['PATH']}",
            }
            script = Path(address.directory) / "grep"
            script.write_text(f"#!/bin/sh\n/usr/bin/id -u >> {made}\n")
            script.chmod(0o755)
            process = await connection.start(Command(("id", "-u"), environment))
            assert [chunk async for chunk in process.stdout()] == [f"{entry.pw_uid}\n".encode()]
            assert not made.exists() or "0\n" not in made.read_text().splitlines(keepends=True)
            process = await connection.start(Command(words=("tty",), terminal=TerminalSize()))
            assert b"/dev/pts/" in await anext(process.stdout())
        finally:
            await connection.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("whose", ["ours", "theirs"])
async def test_forked_programs_live_within_the_instance(
    tmp_path: Path, account: str, open_folder: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    driver = make(tmp_path / "local", directory=open_folder)
    owner = OURSELVES if whose == "ours" else account
    server = ForkServer(tmp_path / "fork", [Program("sleeper", "tests.connections.toy_program")])
    await server.start()
    try:
        instance_id, address = await start(driver, owner)
        connection = await LocalConnection.open(address, server)
        try:
            program = await programs.launch(
                connection, Command(("sleeper", "sleep")), name="p", folder="programs"
            )
            process = Path(f"/proc/{program.pid}")
            assert f"GRIDCLOUD_INSTANCE={instance_id}".encode() in (process / "environ").read_bytes().split(
                b"\0"
            )
            assert process.stat().st_uid == pwd.getpwnam(owner).pw_uid
            assert b"sleeper\0sleep" in (process / "cmdline").read_bytes()
            if Path("/sys/fs/cgroup/pids").exists():
                assert f"pids:/gridcloud/{instance_id}\n" in (process / "cgroup").read_text()
        finally:
            await connection.close()
        assert _runs(program.pid)
        await driver.destroy(instance_id, None)
        assert not _runs(program.pid)
        assert server.alive
    finally:
        await server.close()


@pytest.mark.needs_root
async def test_runs_as_the_owner_in_a_private_folder(tmp_path: Path, account: str, open_folder: str) -> None:
    driver = make(tmp_path, directory=open_folder)
    instance_id, address = await start(driver, account)
    connection = await connect(address)
    try:
        assert await read_output(connection, "id", "-un") == f"{account}\n"
        assert await read_output(connection, "stat", "-c", "%U %a", address.directory) == f"{account} 700\n"
        memory = await read_output(connection, "cat", "/proc/self/cgroup")
        if Path("/sys/fs/cgroup/memory").exists():
            assert f"memory:/gridcloud/{instance_id}\n" in memory
        # What it leaves behind points elsewhere; nothing but the link goes.
        kept = tmp_path / "kept"
        kept.mkdir()
        (kept / "file").touch()
        await read_output(connection, "ln", "-s", str(kept), "link")
        await read_output(connection, "mkdir", "-m", "000", "closed")
    finally:
        await connection.close()
    await driver.destroy(instance_id, None)
    assert (kept / "file").exists()
    assert not Path(address.directory).parent.exists()


@pytest.mark.needs_root
@pytest.mark.parametrize("owner", ["nobody", "daemon", "no such account", "../root", "", "x" * 300, "a\0b"])
async def test_root_runs_nothing_for_whom_it_does_not_know(tmp_path: Path, owner: str) -> None:
    driver = make(tmp_path)
    with pytest.raises(Forbidden) as caught:
        await start(driver, owner)
    assert "account" in str(caught.value)
    assert await driver.holdings() == []


@pytest.mark.needs_root
async def test_root_serves_itself_and_who_is_mapped_to_it(tmp_path: Path) -> None:
    driver = make(tmp_path, accounts={"admin": "root", "daemonic": "daemon"})
    assert (await start(driver, "root"))[1].user == ""
    assert (await start(driver, "admin"))[1].user == ""
    with pytest.raises(Forbidden):
        await start(driver, "daemonic")
    assert [finding.ok for finding in await driver.check() if "daemonic" in finding.message] == [False]
    for holding in await driver.holdings():
        await driver.destroy(holding.instance_id, None)


async def test_destroy_ends_what_left_its_session_and_its_connection(tmp_path: Path) -> None:
    driver = make(tmp_path)
    instance_id, address = await start(driver)
    connection = await connect(address)
    try:
        words = ("setsid", "sh", "-c", "echo $$; exec sleep 600 >/dev/null 2>&1")
        process = await connection.start(Command(words=words))
        pid = int(await anext(process.stdout()))
    finally:
        await connection.close()
    assert Path(f"/proc/{pid}").exists()
    await driver.destroy(instance_id, None)
    assert not _runs(pid)


async def test_nothing_enters_once_it_is_gone(tmp_path: Path) -> None:
    driver = make(tmp_path)
    instance_id, address = await start(driver)
    enter = Path(address.enter[1]).read_text()
    await driver.destroy(instance_id, None)
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", enter, "enter", "true"), stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    assert process.returncode == 126
    assert complaint == f"gridcloud: instance {instance_id} is gone\n".encode()


async def test_a_restart_of_the_computer_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make(tmp_path, cpus=0.25)
    instance_id, _ = await start(driver)
    request = Request(cpus=0.25, memory=64 * 1024**2)
    assert not (await driver.offers(request))[0].available
    # The kernel's boot id cannot be changed.
    monkeypatch.setattr(local, "boot_id", lambda: "another")
    seen = (await driver.observe({instance_id: Handle(data={})}))[instance_id]
    assert seen.phase is Phase.GONE
    assert "restarted" in seen.detail
    assert (await driver.offers(request))[0].available
    assert [holding.instance_id for holding in await driver.holdings()] == [instance_id]
    await driver.destroy(instance_id, None)
    assert await driver.holdings() == []


async def test_gpus_are_given_to_one_instance_each(tmp_path: Path) -> None:
    class WithGPUs(LocalDriver):
        async def _gpus(self) -> tuple[GPU, ...]:
            return (GPU("GPU-a", "NVIDIA A100", 40 << 30), GPU("GPU-b", "NVIDIA H100", 80 << 30))

    plain = make(tmp_path)
    driver = WithGPUs(plain.settings, plain.context)
    first, address = await start(driver, gpus=1, gpu_model="h100")
    connection = await connect(address)
    try:
        assert await read_output(connection, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "GPU-b\n"
    finally:
        await connection.close()
    (offer,) = await driver.offers(Request(memory=1 << 20, gpus=1, gpu_model="h100"))
    assert (offer.possible, offer.available) == (True, False)
    assert (await driver.offers(Request(memory=1 << 20, gpus=1)))[0].available
    (offer,) = await driver.offers(Request(memory=1 << 20, gpus=2, gpu_memory=50 << 30))
    assert not offer.possible
    with pytest.raises(NoCapacity):
        await start(driver, gpus=2)
    await driver.destroy(first, None)


@pytest.mark.needs_root
async def test_an_account_that_was_removed_keeps_nothing_alive(tmp_path: Path, open_folder: str) -> None:
    driver = make(tmp_path, directory=open_folder)
    name = f"gct{secrets.token_hex(3)}"
    await asyncio.to_thread(subprocess.run, ["useradd", name], check=True)
    try:
        instance_id, _ = await start(driver, name)
    finally:
        await asyncio.to_thread(subprocess.run, ["userdel", name], check=True)
    seen = await driver.observe({instance_id: Handle(data={})})
    assert seen[instance_id].phase is Phase.FAILED
    await driver.destroy(instance_id, None)
    assert await driver.holdings() == []
    assert [path.name for path in Path(open_folder).iterdir()] == [".gone"]


async def test_no_instance_lies_where_others_may_put_links(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    base.mkdir()
    elsewhere.mkdir(mode=0o755)
    (base / "t-linked").symlink_to(elsewhere)
    driver = make(tmp_path / "local", directory=str(base))
    request = Request(cpus=0.25, memory=64 * 1024**2)
    (offer,) = await driver.offers(request)
    with pytest.raises(Forbidden, match="others on this computer"):
        await driver.create(Spec(id="t-linked", owner=OURSELVES, request=request, offer=offer))
    base.chmod(0o1777)
    with pytest.raises(Forbidden, match="others on this computer"):
        await driver.create(Spec(id="t-open", owner=OURSELVES, request=request, offer=offer))
    assert [path.name for path in base.iterdir()] == ["t-linked"]
    assert list(elsewhere.iterdir()) == []
    assert elsewhere.stat().st_mode & 0o777 == 0o755


async def test_an_image_is_never_possible_here(tmp_path: Path) -> None:
    (offer,) = await make(tmp_path).offers(Request(memory=1 << 20, image="debian"))
    assert not offer.possible
    assert "no images" in offer.why_not


async def test_what_never_fits_is_rejected_even_without_asking(tmp_path: Path) -> None:
    driver = make(tmp_path)
    fits = Request(cpus=0.25, memory=1 << 20)
    spec = Spec(
        id="one-1",
        owner=OURSELVES,
        request=fits.model_copy(update={"cpus": 9000.0}),
        offer=(await driver.offers(fits))[0],
    )
    with pytest.raises(Rejected):
        await driver.create(spec)


async def test_price_is_that_of_the_part(tmp_path: Path) -> None:
    driver: InstanceDriver = make(tmp_path, cpus=1, price=10)
    (offer,) = await driver.offers(Request(cpus=0.25, memory=1 << 20))
    assert offer.price == 2.5


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_owners_share_no_account_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether gridcloud is root is decided when it starts; here it is, and must think that it is not.
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(Forbidden, match="'ada' would share its files"):
        make(tmp_path / "a")._account("ada")
    assert make(tmp_path / "b")._account("nobody") == ""
    assert make(tmp_path / "c", accounts={"ada": "nobody"})._account("ada") == ""
    assert make(tmp_path / "d", share_account=True)._account("ada") == ""
