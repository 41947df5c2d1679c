"""Finding the owner of the store, or becoming it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gridcloud.client import connect, connect_async
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, InvalidSettings, Unreachable
from gridcloud.instances.model import Request
from gridcloud.service.process import lock_of, owning
from gridcloud.settings import socket_path
from tests.houses import configure
from tests.services import FAKE, SMALL, Service, open_service


@pytest.fixture
def data(tmp_path: Path) -> Path:
    configure(tmp_path, FAKE)
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


def arguments(data: Path) -> dict[str, Any]:
    return {"config": data.parent / "config.yaml", "data": data}


async def test_a_program_becomes_the_owner_and_others_ask_it(data: Path) -> None:
    async with await connect_async(**arguments(data)) as first:
        assert socket_path(data).exists()
        instance = await first.start(SMALL)
        async with await connect_async(data=data, alone=True) as second:
            assert (await second.wait_ready(instance.id)).id == instance.id
        with pytest.raises(Conflict):
            async with owning(configure(data.parent, FAKE), data):
                raise AssertionError("there are two owners")
    assert not socket_path(data).exists()
    async with await connect_async(**arguments(data)) as again:
        assert [one.id for one in await again.instances()] == [instance.id]


def test_plain_programs_do_as_well(data: Path) -> None:
    with connect(**arguments(data)) as first:
        instance = first.start(SMALL)
        with connect(data=data, alone=True) as second:
            assert second.instance(instance.id).id == instance.id
            assert [offer.provider for offer in second.offers(cpus=1).offers if offer.available][:1] == [
                "cloud"
            ]
        assert first.stop(instance.id).state == "stopped"
        first.close()
        first.close()
    with pytest.raises(Unreachable, match="No service runs"):
        connect(data=data, alone=True)


def test_sizes_without_their_unit_are_refused(data: Path) -> None:
    with connect(**arguments(data)) as client:
        for size in (4, 4.0, "4"):
            with pytest.raises(
                InvalidRequest, match=r"^memory: 4 means bytes; write the unit, for example 4GiB\.$"
            ):
                client.start(memory=size)
        for fields in ({"disk": 20}, {"gpu_memory": 40}, {"memory": 0}, {"memory": -1}, {"memory": True}):
            with pytest.raises(InvalidRequest, match=next(iter(fields))):
                client.offers(**fields)
        with pytest.raises(InvalidRequest, match="cpu: "):
            client.offers(cpu=1)
        assert client.instances(all=True) == []
        assert client.offers(memory=64 << 20, disk=0, gpu_memory=0).offers
        assert client.offers(Request(memory=4), cpus=0.5).offers, "a request holds bytes"


async def test_when_the_owner_ends_the_others_are_told(data: Path) -> None:
    told = asyncio.Event()
    first = await connect_async(**arguments(data), farewell=lambda text: told.set())
    second = await connect_async(data=data, alone=True)
    await second.version()
    leaving = asyncio.create_task(first.close())
    await told.wait()
    await second.version()  # it goes on for as long as another is there
    assert not leaving.done()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    with pytest.raises(Unreachable, match="Nobody answers"):
        await second.version()
    await second.close()
    async with await connect_async(**arguments(data)) as third:
        await third.version()


RACER = """
import sys, pathlib
from gridcloud.client import connect
data = pathlib.Path(sys.argv[1])
with connect(config=data.parent / "config.yaml", data=data) as client:
    instance = client.start(cpus=0.25, memory="64MiB")
    code, out, err = client.run(instance.id, ["echo", "hello"])
    assert (code, out) == (0, b"hello\\n"), (code, out, err)
    print("here", flush=True)
    sys.stdin.read()
"""


async def start(program: str, *words: str) -> asyncio.subprocess.Process:
    """Start a Python program."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(os.environ)
    )


async def test_an_owner_stays_until_the_others_have_done(data: Path) -> None:
    first = await connect_async(**arguments(data))
    async with await connect_async(data=data, alone=True) as second:
        instance = await second.start(SMALL)
        leaving = asyncio.create_task(first.close())
        await second.wait_ready(instance.id)
        await second.stop(instance.id)
        assert not leaving.done()
    await leaving
    assert not socket_path(data).exists()


async def test_three_race_to_be_the_owner(data: Path) -> None:
    racers = [await start(RACER, str(data)) for _ in range(3)]
    async with asyncio.timeout(60):
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stderr is not None
            line = await racer.stdout.readline()
            assert line == b"here\n", (await racer.stderr.read()).decode()
    holder = lock_of(data).holder()
    assert holder is not None
    owner = next(racer for racer in racers if racer.pid == holder.pid)
    for racer in (*(one for one in racers if one is not owner), owner):
        async with asyncio.timeout(30):
            _, err = await racer.communicate(b"")
        assert (racer.returncode, err) == (0, b"")


async def test_an_owner_that_was_killed_is_followed_by_another(data: Path) -> None:
    first = await start(RACER, str(data))
    assert first.stdout is not None
    async with asyncio.timeout(60):
        assert await first.stdout.readline() == b"here\n"
    first.send_signal(signal.SIGKILL)
    await first.communicate()
    assert socket_path(data).exists()  # nobody could tidy up
    async with await connect_async(**arguments(data)) as second:
        (instance,) = await second.instances()
        assert (await second.wait_ready(instance.id)).id == instance.id
        await second.stop(instance.id)
        await second.wait_ended(instance.id)


async def test_an_owner_that_does_not_answer_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr("gridcloud.client.opening.PATIENCE", 0.1)
    lock = lock_of(data)
    assert lock.try_acquire("elsewhere")
    try:
        with pytest.raises(Unreachable, match="does not answer"):
            await connect_async(**arguments(data))
    finally:
        lock.release()


@pytest.mark.parametrize("url", ["http://gridcloud.example.org", "gridcloud.example.org", "ftp://x"])
async def test_a_token_is_sent_over_tls_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="TLS"):
        await connect_async(url, token="gc_x")
    monkeypatch.setenv("GRIDCLOUD_URL", url)
    with pytest.raises(InvalidSettings, match="TLS"):
        await asyncio.to_thread(connect)


async def test_the_environment_names_a_service(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDCLOUD_URL", service.url)
    monkeypatch.setenv("GRIDCLOUD_TOKEN", await service.token("ada"))
    monkeypatch.setenv("SSL_CERT_FILE", str(service.certificate))

    def work() -> None:
        with connect() as client:
            assert client.version().user == "ada"

    await asyncio.to_thread(work)


async def test_nobody_at_an_address(service: Service) -> None:
    async with await connect_async("https://localhost:1", token="x") as client:
        with pytest.raises(Unreachable, match="localhost:1"):
            await client.version()
        with pytest.raises(Unreachable, match="localhost:1"):
            await client.command("i-x", ["true"])
        with pytest.raises(Unreachable):
            await client.put("i-x", service.certificate, "x")


async def test_what_is_interrupted_leaves_no_instance(tmp_path: Path) -> None:
    """Ctrl-C while a plain program waits for its instance."""
    providers = {"cloud": {"driver": "fake", "boot_seconds": 60}}
    async with open_service(tmp_path, providers) as service:
        program = (
            "import sys, pathlib\nfrom gridcloud.client import connect\n"
            "with connect(data=pathlib.Path(sys.argv[1])) as client:\n"
            "    client.start(cpus=0.25, memory='64MiB', on_event=lambda event: print(event.type, flush=True))\n"
        )
        waiting = await start(program, str(service.house.data))
        assert waiting.stdout is not None
        async with asyncio.timeout(60):
            while await waiting.stdout.readline() != b"starting\n":
                pass
            waiting.send_signal(signal.SIGINT)
            _, err = await waiting.communicate()
        assert b"KeyboardInterrupt" in err
        (instance,) = await service.house.instances.records.find()
        async for now in service.house.instances.records.follow(instance.id):
            instance = now
        assert instance.reason == "cancelled"


def test_nothing_is_left_when_connecting_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(GridcloudError):
        connect(config=tmp_path / "none.yaml", data=tmp_path)
    assert threading.active_count() <= before + 1
