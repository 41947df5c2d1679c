"""Virtual machines as a provider: the contract on machines whose firmware finds nothing to start, which costs little;
one machine that boots; and what goes wrong with machines, images and hosts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.labs.virtual_machines import image_entry, missing_for_virtual_machines, prepare_image

from gridcloud.connections.driver import Connection
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import Address, LocalAddress, SSHAddress
from gridcloud.connections.ssh import SSHConnection
from gridcloud.drivers.instances.qemu import QEMUDriver
from gridcloud.drivers.instances.qemu_settings import QEMUSettings
from gridcloud.errors import GridcloudError, InvalidRequest, NoCapacity, NotFound, Rejected, Untrusted
from gridcloud.instances.driver import Expiring, Imaging, InstanceDriver
from gridcloud.instances.model import Handle, Observation, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context, read_output
from gridcloud.testing.sshd import SSHServer

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221 (short programs and looks at /proc, which nothing announces)

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(240)]

SMALL = Request(cpus=1, memory=64 * 1024**2)
BOOT_SECONDS = 400.0
"""An emulated machine on a computer that does other work besides."""

Make = Callable[..., QEMUDriver]


@pytest.fixture(scope="session", autouse=True)
def _parts() -> None:
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.fixture(scope="session")
def lab_image() -> dict[str, Any]:
    return image_entry(prepare_image())


class Keys:
    """Our credentials: an authority that signs certificates, and the key of a host."""

    def __init__(self, server: SSHServer | None = None) -> None:
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        self._server = server

    async def private_key(self, reference: str) -> Any:
        assert self._server is not None
        return await self._server.credentials().private_key(reference)

    async def user_certificate(self, principal: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        key = asyncssh.generate_private_key("ssh-ed25519")
        return key, self.authority.generate_user_certificate(key, principal, principals=[principal])

    async def connect(self, address: Address) -> Connection:
        if isinstance(address, LocalAddress):
            return await LocalConnection.open(address)
        assert isinstance(address, SSHAddress)
        return await SSHConnection.open(address, self)

    async def connect_patiently(self, address: Address) -> Connection:
        """Connect to a machine that is still starting; what is not it is refused at once."""
        async with asyncio.timeout(BOOT_SECONDS):
            while True:
                try:
                    return await self.connect(address)
                except Untrusted:
                    raise
                except GridcloudError:
                    await asyncio.sleep(1)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An image with nothing on it."""
    path = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    return path


@pytest.fixture
async def make(tmp_path: Path, empty: Path) -> AsyncIterator[Make]:
    """Make a driver, closed afterwards; nothing of it may run then."""
    made: list[QEMUDriver] = []

    def make_driver(
        *, keys: Keys | None = None, installation: str = "gridcloud-test", **settings: Any
    ) -> QEMUDriver:
        keys = keys or Keys()
        authority = keys.authority.export_public_key().decode()
        context = driver_context(
            tmp_path / f"provider-{installation}", keys.connect, "virtual", installation, authority
        )
        values = {
            "driver": "qemu",
            "images": {"empty": {"source": str(empty)}},
            "directory": str(tmp_path / "host"),
            **settings,
        }
        made.append(QEMUDriver(QEMUSettings.model_validate(values), context))
        return made[-1]

    yield make_driver
    for driver in made:
        await driver.close()
    async with asyncio.timeout(20):
        while (left := processes(tmp_path / "host")) and all("sleep" in words for words in left.values()):
            await asyncio.sleep(0.1)  # what a killed supervisor was waiting for
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: {left}"


def processes(directory: Path) -> dict[int, str]:
    """Return what runs in a folder, or was told of it."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                at = (entry / "cwd").readlink()
                if directory in (at, *at.parents) or (
                    f"\0{directory}\0" in words and "\0supervise\0" in words
                ):
                    found[int(entry.name)] = words.replace("\0", " ")[-200:]
    return found


async def make_one(
    driver: QEMUDriver, request: Request = SMALL, name: str = "t-one"
) -> tuple[Spec, Handle, Observation]:
    """Make a machine, and return it once it is no longer PENDING."""
    (offer,) = await driver.offers(request)
    assert offer.available, offer.why_not
    spec = Spec(id=name, owner="ada", request=request, offer=offer)
    handle = await driver.create(spec)
    return spec, handle, await settled(driver, spec, handle)


async def settled(driver: QEMUDriver, spec: Spec, handle: Handle) -> Observation:
    """Return what a machine is once it is no longer PENDING."""
    return await _until(driver, spec, handle, {Phase.RUNNING, Phase.FAILED, Phase.GONE})


async def over(driver: QEMUDriver, spec: Spec, handle: Handle) -> Observation:
    """Return what a machine is once it has ended."""
    return await _until(driver, spec, handle, {Phase.FAILED, Phase.GONE})


async def _until(driver: QEMUDriver, spec: Spec, handle: Handle, phases: set[Phase]) -> Observation:
    async with asyncio.timeout(60):
        while (seen := (await driver.observe({spec.id: handle}))[spec.id]).phase not in phases:
            await asyncio.sleep(0.1)
    return seen


class TestContract(InstanceDriverContract):
    """On machines that start nothing; those tests that log in boot one, and are for the labs."""

    most = 2

    @pytest.fixture
    async def driver(self, request: pytest.FixtureRequest, make: Make) -> InstanceDriver:
        self.keys = Keys()
        if request.node.get_closest_marker("lab"):
            return make(keys=self.keys, machines=2, images={"lab": request.getfixturevalue("lab_image")})
        return make(keys=self.keys, machines=2, memory="1536MiB", cpus=2)

    async def connect(self, driver: InstanceDriver, address: Address) -> Connection:
        return await self.keys.connect_patiently(address)

    @pytest.mark.lab
    @pytest.mark.timeout(900)
    async def test_lives_and_goes(self, driver: InstanceDriver) -> None:
        await super().test_lives_and_goes(driver)

    @pytest.mark.lab
    @pytest.mark.timeout(900)
    async def test_destroy_ends_what_runs(self, driver: InstanceDriver) -> None:
        await super().test_destroy_ends_what_runs(driver)


# A machine that boots


@pytest.mark.timeout(600)
async def test_machine_boots_is_verified_and_ends_itself(
    make: Make, lab_image: dict[str, Any], tmp_path: Path
) -> None:
    keys = Keys()
    driver = make(keys=keys, images={"lab": lab_image}, boot_script="echo told >/etc/told")
    request = Request(cpus=2, memory=1024**3, disk=9 * 1024**3)
    spec, handle, seen = await make_one(driver, request)
    assert isinstance(seen.address, SSHAddress)
    connection = await keys.connect_patiently(seen.address)
    try:
        assert await read_output(connection, "id", "-un") == "gridcloud\n"
        assert await read_output(connection, "sudo", "-n", "id", "-u") == "0\n"
        assert await read_output(connection, "nproc") == "2\n"
        assert int(await read_output(connection, "cat", "/sys/block/vda/size")) * 512 == 9 * 1024**3
        # Nothing but its SSH port leads out of it or into it: not to us either.
        host = (
            "import socket\ntry: socket.create_connection(('10.0.2.2', 22), 3)\nexcept OSError: print('cut')"
        )
        assert await read_output(connection, "python3", "-c", host) == "cut\n"
    finally:
        await connection.close()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(Untrusted):
        await keys.connect(seen.address.model_copy(update={"host_keys": (other,)}))
    with pytest.raises(Rejected):
        await keys.connect(seen.address.model_copy(update={"principal": "gridcloud-t-other"}))
    await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(seconds=1))
    await over(driver, spec, handle)
    async with asyncio.timeout(30):
        while processes(tmp_path / "host") or await driver.holdings():
            await asyncio.sleep(0.2)
    assert [path.name for path in (tmp_path / "host").iterdir()] in (["lock"], ["lock", "gridcloud-test"])
    with pytest.raises(NotFound):
        await driver.arm(spec.id, handle, datetime.now(UTC))


@pytest.mark.lab
@pytest.mark.timeout(900)
async def test_machine_on_a_host_reached_by_ssh(
    make: Make, lab_image: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    with SSHServer(folder) as server:
        keys = Keys(server)
        host = {"host": "127.0.0.1", "port": server.port, "user": server.user, "host_keys": server.host_key}
        driver = make(keys=keys, images={"lab": lab_image}, host={**host, "key": f"file:{folder}/user_key"})
        spec, handle, seen = await make_one(driver, Request(cpus=2, memory=1024**3))
        assert isinstance(seen.address, SSHAddress)
        assert seen.address.jump is not None
        connection = await keys.connect_patiently(seen.address)
        assert await read_output(connection, "hostname") == "t-one\n"
        await connection.close()
        await driver.destroy(spec.id, handle)
        assert not await driver.holdings()
        await driver.close()


@pytest.mark.lab
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["poweroff", "panic"])
async def test_machine_that_ends_from_within(make: Make, lab_image: dict[str, Any], how: str) -> None:
    keys = Keys()
    driver = make(keys=keys, images={"lab": lab_image})
    spec, handle, seen = await make_one(driver, Request(cpus=2, memory=1024**3))
    assert seen.address is not None
    connection = await keys.connect_patiently(seen.address)
    script = "sleep 1; systemctl poweroff" if how == "poweroff" else "sleep 1; echo c >/proc/sysrq-trigger"
    await read_output(connection, "sh", "-c", f"sudo setsid sh -c '{script}' </dev/null >/dev/null 2>&1 &")
    seen = await over(driver, spec, handle)
    with contextlib.suppress(GridcloudError):
        await connection.close()
    if how == "poweroff":
        assert seen.phase is Phase.GONE
        assert "shut down from within" in seen.detail
    else:
        assert seen.phase is Phase.FAILED
        assert "panic" in seen.detail
    await driver.destroy(spec.id, handle)


# On a host reached by SSH, machines that start nothing


async def test_host_reached_by_ssh(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    with SSHServer(folder) as server:
        keys = Keys(server)
        host = {"host": "127.0.0.1", "port": server.port, "user": server.user, "host_keys": server.host_key}
        driver = make(keys=keys, host={**host, "key": f"file:{folder}/user_key"})
        assert [finding.message for finding in await driver.check() if not finding.ok] == []
        spec, handle, seen = await make_one(driver)
        assert seen.phase is Phase.RUNNING
        assert isinstance(seen.address, SSHAddress)
        assert seen.address.jump is not None
        assert seen.address.jump.port == server.port
        # A host that has left the configuration is still asked.
        here = make(keys=keys, directory=str(tmp_path / "elsewhere"))
        assert (await here.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
        await here.destroy(spec.id, handle)
        assert not await driver.holdings()
        await here.close()
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        wrong = make(keys=keys, host={**host, "host_keys": other})
        with pytest.raises(Untrusted):
            await wrong.offers(SMALL)
        (finding,) = await make(keys=keys, host={**host, "host_keys": ()}).check()
        assert not finding.ok
        assert "No host key is pinned" in finding.message
        await driver.close()


# Images


@pytest.mark.parametrize("kind", ["missing", "text", "backed", "wrong sum"])
async def test_image_that_cannot_be_used(make: Make, tmp_path: Path, empty: Path, kind: str) -> None:
    path, more, word = tmp_path / "image", {}, kind
    if kind == "missing":
        word = "no file"
    elif kind == "text":
        path.write_text("not a disk\n" * 100)
        word = "cannot be used"
    elif kind == "backed":
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", empty, "-F", "qcow2", path], check=True
        )
        word = "needs further files"
    else:
        path, more, word = empty, {"sha256": "ab" * 32}, "has the SHA-256"
    driver = make(images={"it": {"source": str(path), **more}})
    spec = Spec(id="t-bad", owner="ada", request=SMALL, offer=(await driver.offers(SMALL))[0])
    with pytest.raises(InvalidRequest, match=word):
        await driver.create(spec)
    await driver.destroy(spec.id, None)
    assert await driver.holdings() == []
    if kind == "missing":
        assert not all(finding.ok for finding in await driver.check())


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server for a folder, and what it was asked for."""
    asked: list[str] = []
    (tmp_path / "web").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: Any) -> None:
            asked.append(str(words[0]))

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, name="web")
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


async def test_image_is_fetched_once(
    make: Make, tmp_path: Path, empty: Path, web: tuple[str, list[str]]
) -> None:
    url, asked = web
    content = empty.read_bytes()
    (tmp_path / "web" / "d.qcow2").write_bytes(content)
    entry = {"source": f"{url}/d.qcow2", "sha256": hashlib.sha256(content).hexdigest()}
    driver = make(images={"web": entry})
    made = await asyncio.gather(*(make_one(driver, name=name) for name in ("t-one", "t-two")))
    assert [seen.phase for _, _, seen in made] == [Phase.RUNNING] * 2
    assert len(asked) == 1
    for spec, handle, _ in made:
        await driver.destroy(spec.id, handle)
    images = tmp_path / "host" / "images"
    assert sorted(path.name for path in images.iterdir()) == [entry["sha256"], f"{entry['sha256']}.lock"]


@pytest.mark.parametrize(("file", "word"), [("d.qcow2", "has the SHA-256"), ("none", "could not be fetched")])
async def test_image_from_elsewhere_that_is_another(
    make: Make, tmp_path: Path, empty: Path, web: tuple[str, list[str]], file: str, word: str
) -> None:
    (tmp_path / "web" / "d.qcow2").write_bytes(empty.read_bytes())
    driver = make(images={"web": {"source": f"{web[0]}/{file}", "sha256": "cd" * 32}})
    spec = Spec(id="t-bad", owner="ada", request=SMALL, offer=(await driver.offers(SMALL))[0])
    try:
        seen = await settled(driver, spec, await driver.create(spec))
        assert seen.phase is Phase.FAILED
        assert word in seen.detail
    except GridcloudError as error:
        assert word in error.message  # noqa: PT017 (how far it comes in time is open, what it says is not)
    await driver.destroy(spec.id, None)
    assert await driver.holdings() == []
    assert [path.suffix for path in (tmp_path / "host" / "images").iterdir()] == [".lock"]


async def test_images_are_chosen_by_name(make: Make, empty: Path) -> None:
    driver = make(images={"a": {"source": str(empty)}, "b": {"source": str(empty)}}, image="b")
    assert isinstance(driver, Imaging)
    assert await driver.images() == ["b", "a"]
    (offer,) = await driver.offers(SMALL.model_copy(update={"image": "c"}))
    assert not offer.possible
    assert "there are a, b" in offer.why_not
    spec = Spec(id="t-c", owner="ada", request=SMALL.model_copy(update={"image": "c"}), offer=offer)
    with pytest.raises(InvalidRequest):
        await driver.create(spec)


# What goes wrong on the host


async def test_killed_machine_is_failed(make: Make, tmp_path: Path) -> None:
    driver = make()
    spec, handle, _ = await make_one(driver)
    place = tmp_path / "host" / "gridcloud-test" / spec.id
    os.kill(int((place / "running").read_text().split()[0]), signal.SIGKILL)
    seen = await over(driver, spec, handle)
    assert seen.phase is Phase.FAILED
    assert "signal 9" in seen.detail
    await driver.destroy(spec.id, handle)


async def test_machine_dies_with_its_supervisor(make: Make, tmp_path: Path) -> None:
    driver = make()
    spec, handle, _ = await make_one(driver)
    place = tmp_path / "host" / "gridcloud-test" / spec.id
    os.kill(int((place / "supervisor").read_text().split()[0]), signal.SIGKILL)
    async with asyncio.timeout(20):
        while any("qemu-system" in words for words in processes(tmp_path / "host").values()):
            await asyncio.sleep(0.1)
    seen = await settled(driver, spec, handle)
    assert (seen.phase, "killed" in seen.detail) == (Phase.FAILED, True)
    await driver.destroy(spec.id, handle)
    assert await driver.holdings() == []


async def test_numbers_of_processes_are_not_believed(make: Make, tmp_path: Path) -> None:
    driver = make()
    spec, handle, _ = await make_one(driver)
    place = tmp_path / "host" / "gridcloud-test" / spec.id
    os.kill(int((place / "supervisor").read_text().split()[0]), signal.SIGKILL)
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    for name in ("supervisor", "running"):
        (place / name).write_text(f"{other.pid} 1 20000\n")
    assert (await settled(driver, spec, handle)).phase is Phase.FAILED
    await driver.destroy(spec.id, handle)
    assert other.poll() is None
    other.kill()
    other.wait()


async def test_taken_ports_are_passed_over(make: Make) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        taken = one.getsockname()[1]
        if taken >= 65535:
            pytest.skip("this computer gave the last port there is")
        driver = make(ports=[taken, taken])
        spec = Spec(id="t-none", owner="ada", request=SMALL, offer=(await driver.offers(SMALL))[0])
        with pytest.raises(NoCapacity, match="none of the ports"):
            await driver.create(spec)
        await driver.destroy(spec.id, None)
        assert await driver.holdings() == []
        driver = make(ports=[taken, min(taken + 20, 65535)])
        spec, handle, seen = await make_one(driver)
        assert isinstance(seen.address, SSHAddress)
        assert seen.address.port > taken
        await driver.destroy(spec.id, handle)


async def test_port_that_is_bound_but_silent_is_passed_over(make: Make) -> None:
    """Which only QEMU finds out."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        taken = one.getsockname()[1]
        driver = make(ports=[taken, taken])
        spec = Spec(id="t-none", owner="ada", request=SMALL, offer=(await driver.offers(SMALL))[0])
        with pytest.raises(NoCapacity, match="none of the ports"):
            await driver.create(spec)
        await driver.destroy(spec.id, None)


async def test_full_disk_is_no_capacity(make: Make, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", place], check=True)
    try:
        driver = make(directory=str(place))
        (offer,) = await driver.offers(SMALL)
        assert not offer.available
        assert "of disk are free" in offer.why_not
        with pytest.raises(NoCapacity, match="of disk are free"):
            await driver.create(Spec(id="t-full", owner="ada", request=SMALL, offer=offer))
        await driver.destroy("t-full", None)
        assert await driver.holdings() == []
        assert not all(finding.ok for finding in await driver.check())
    finally:
        subprocess.run(["umount", place], check=True)


async def test_two_installations_share_what_there_is(make: Make) -> None:
    one, other = make(machines=1), make(machines=1, installation="other")
    spec, handle, _ = await make_one(one)
    (offer,) = await other.offers(SMALL)
    assert "1 of 1 machines are there" in offer.why_not
    with pytest.raises(NoCapacity):
        await other.create(spec.model_copy(update={"id": "t-two"}))
    assert await other.holdings() == []
    await other.destroy(spec.id, None)
    assert (await one.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    await one.destroy(spec.id, handle)


async def test_host_that_started_anew_has_lost_its_machines(make: Make, tmp_path: Path) -> None:
    driver = make()
    spec, handle, _ = await make_one(driver)
    path = tmp_path / "host" / "gridcloud-test" / spec.id / "spec"
    words = path.read_text().split()
    words[4] = "another-1"
    path.write_text(" ".join(words) + "\n")
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert (seen.phase, "started anew" in seen.detail) == (Phase.GONE, True)
    assert [holding.instance_id for holding in await driver.holdings()] == [spec.id]
    await driver.destroy(spec.id, handle)


async def test_half_made_machine_is_held_and_removed(make: Make, tmp_path: Path) -> None:
    driver = make()
    for number, made in enumerate(("spec", "folder")):
        place = tmp_path / "host" / "gridcloud-test" / f"t-half-{number}"
        place.mkdir(parents=True)
        if made == "spec":
            (place / "spec").write_text("1 1 1")
    assert [holding.instance_id for holding in await driver.holdings()] == ["t-half-0", "t-half-1"]
    for holding in await driver.holdings():
        await driver.destroy(holding.instance_id, holding.handle)
    assert await driver.holdings() == []


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.4])
async def test_broken_off_while_it_is_made_leaves_nothing(make: Make, tmp_path: Path, seconds: float) -> None:
    driver = make()
    spec = Spec(id="t-broken", owner="ada", request=SMALL, offer=(await driver.offers(SMALL))[0])
    making = asyncio.create_task(driver.create(spec))
    await asyncio.sleep(seconds)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await driver.close()
    again = make()
    await again.destroy(spec.id, None)
    assert await again.holdings() == []
    async with asyncio.timeout(10):
        while processes(tmp_path / "host"):
            await asyncio.sleep(0.1)
    _, handle, seen = await make_one(again, name=spec.id)
    assert seen.phase is Phase.RUNNING
    await again.destroy(spec.id, handle)


async def test_machine_runs_as_nobody_that_owns_anything(make: Make, tmp_path: Path) -> None:
    driver = make()
    assert isinstance(driver, Expiring)
    made = [await make_one(driver, name=name) for name in ("t-one", "t-two")]
    seen = set()
    for spec, _, _ in made:
        place = tmp_path / "host" / "gridcloud-test" / spec.id
        pid = (place / "running").read_text().split()[0]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        seen.add(status["Uid"].split()[0])
        assert int(status["Uid"].split()[0]) >= 1900000001
        assert int(status["CapEff"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert (place / "files").stat().st_mode & 0o777 == 0o700
        assert (place / "files" / "seed.iso").stat().st_mode & 0o777 == 0o600
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"PRIVATE" not in words
    assert len(seen) == 2
    for spec, handle, _ in made:
        await driver.destroy(spec.id, handle)
