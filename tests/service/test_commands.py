"""Commands over websockets: streams, exit codes, signals, terminals, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from pathlib import Path

import aiohttp
import pytest

from gridcloud.client import AsyncClient, RemoteProcess
from gridcloud.client.synchronous import connect
from gridcloud.connections.model import LocalAddress
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.instances.model import Instance
from gridcloud.service.documents import WINDOW
from tests.houses import ended
from tests.services import Service


async def finish(process: RemoteProcess) -> tuple[int, bytes, bytes]:
    """Return the exit code and both streams."""
    said = {"stdout": bytearray(), "stderr": bytearray()}
    async with asyncio.timeout(60):
        async for stream, chunk in process.output():
            said[stream] += chunk
    return process.code, bytes(said["stdout"]), bytes(said["stderr"])


async def run(
    client: AsyncClient, instance: Instance, *words: str, **more: object
) -> tuple[int, bytes, bytes]:
    """Run a command without input."""
    process = await client.command(instance.id, words, **more)  # type: ignore[arg-type]
    await process.close_input()
    return await finish(process)


def folder(instance: Instance) -> Path:
    """Return where an instance of this computer lies."""
    assert isinstance(instance.address, LocalAddress)
    return Path(instance.address.directory)


async def written(path: Path) -> str:
    """Return what a file says once it says something."""
    async with asyncio.timeout(20):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)
    return path.read_text().strip()


async def gone(pid: str) -> None:
    """Return once a process has ended."""
    async with asyncio.timeout(20):
        while Path("/proc", pid).exists():  # noqa: ASYNC110 - nor does somebody else's process
            await asyncio.sleep(0.02)


async def test_streams_codes_and_places(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        script = 'printf "%s" "$X"; pwd >&2; exit 7'
        secret = "a b'\"$é"
        code, out, err = await run(client, instance, "sh", "-c", script, environment={"X": secret})
        assert (code, out.decode(), err.decode().strip()) == (7, secret, str(folder(instance)))
        assert (await run(client, instance, "/no/such/program"))[0] == 127
        assert (await run(client, instance, "sh", "-c", "kill -9 $$"))[0] == 128 + 9
        assert (await run(client, instance, "pwd", directory="/"))[1] == b"/\n"
        with pytest.raises(NotFound):
            await run(client, instance, "pwd", directory="/no/such/place")


async def test_input_goes_there_whole_and_ends(service: Service) -> None:
    instance = await service.obtain()
    data = bytes(range(256)) * 4096 * 5
    async with service.admin() as client:
        process = await client.command(instance.id, ["cat"])

        async def feed() -> None:
            await process.write(data)
            await process.close_input()

        feeding = asyncio.create_task(feed())
        code, out, _ = await finish(process)
        await feeding
        assert (code, out == data) == (0, True)
        process = await client.command(instance.id, ["true"])
        await process.write(data)  # nobody reads it: it is not waited for once the command has ended
        assert (await finish(process))[0] == 0


async def test_signals_arrive_though_nobody_reads_the_input(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        process = await client.command(
            instance.id, ["sh", "-c", "trap 'exit 5' INT; echo up; while :; do sleep 0.05; done"]
        )
        feeding = asyncio.create_task(process.write(b"x" * (4 << 20)))
        chunks = process.output()
        assert await anext(chunks) == ("stdout", b"up\n")
        await process.signal("INT")
        async with asyncio.timeout(20):
            assert [chunk async for chunk in chunks] == []
            await feeding
        assert process.code == 5


async def test_a_terminal_and_its_size(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        script = (
            "trap 'stty size' WINCH; stty size; echo err >&2; read -r line; stty size; echo got $line; exit 3"
        )
        process = await client.command(instance.id, ["bash", "-c", script], terminal=(91, 17))
        said = bytearray()
        async with asyncio.timeout(30):
            async for stream, chunk in process.output():
                assert stream == "stdout"
                if b"err" in chunk and b"got" not in said:
                    await process.resize(100, 30)
                    await process.write(b"hello\n")
                said += chunk
        assert process.code == 3
        assert b"17 91" in said
        assert b"30 100" in said
        assert b"got hello" in said


@pytest.mark.parametrize("busy", ["sleep 60", "yes", "cat >/dev/null"])
async def test_a_client_that_leaves_takes_its_command_along(service: Service, busy: str) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        await client.command(instance.id, ["sh", "-c", f"echo $$ > pid; exec {busy}"])
        pid = await written(folder(instance) / "pid")
    await gone(pid)


async def test_a_client_that_is_lost_while_its_input_is_stuck(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        process = await client.command(instance.id, ["sh", "-c", "echo $$ > pid; exec sleep 60"])
        feeding = asyncio.create_task(process.write(b"x" * (4 << 20)))
        pid = await written(folder(instance) / "pid")
        await process.close()
        await feeding
        await gone(pid)


async def test_one_that_ignores_sigterm_is_killed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr("gridcloud.service.commands.GRACE", 0.2)
    instance = await service.obtain()
    async with service.admin() as client:
        script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"
        process = await client.command(instance.id, ["sh", "-c", script])
        pid = await written(folder(instance) / "pid")
        await process.close()
        await gone(pid)


async def test_much_output_waits_for_its_reader(service: Service) -> None:
    """Fifty megabytes pass through without being gathered anywhere on the way."""
    instance = await service.obtain()
    size = 50 << 20
    async with service.admin() as client:
        process = await client.command(
            instance.id, ["sh", "-c", f"head -c {size} /dev/zero; echo done > done"]
        )
        chunks = process.output()
        got = len((await anext(chunks))[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await asyncio.sleep(0.3)
        assert not (folder(instance) / "done").exists()
        async for _, chunk in chunks:
            got += len(chunk)
        assert (got, process.code) == (size, 0)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


async def test_what_is_not_ready_runs_nothing(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:
        await client.stop(instance.id)
        await ended(service.house, instance.id)
        with pytest.raises(InvalidRequest, match="is not ready: it is stopped"):
            await run(client, instance, "true")
        with pytest.raises(NotFound, match="There is nothing at"):
            await finish(await client.command("..%2f../x", ["true"]))


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ("{", "JSON"),
        ("[]", "body"),
        ('{"words": []}', "words"),
        ('{"words": ["a\\u0000b"]}', "words.0"),
        ('{"words": ["a"], "environment": {"S": "s3cr3t\\u0000"}}', "environment.S"),
        ('{"words": ["a"], "environment": {"A=B": "s3cr3t"}}', "environment"),
        ('{"words": ["a"], "environment": {"S": ["s3cr3t"]}}', "environment.S"),
        ('{"words": ["a"], "shell": "s3cr3t"}', "shell"),
        ('{"words": ["a"], "terminal": {"columns": 0}}', "terminal.columns"),
        (b"\0binary", "first message"),
    ],
)
async def test_an_order_that_makes_no_sense(service: Service, order: str | bytes, named: str) -> None:
    instance = await service.obtain()
    async with service.browser() as browser:
        problem = await ask(browser, instance.id, order)
    assert problem["type"].endswith(":InvalidRequest")
    assert named in problem["detail"]
    assert "s3cr3t" not in str(problem)


async def ask(browser: aiohttp.ClientSession, instance_id: str, order: str | bytes) -> dict[str, str]:
    """Send the first message and return the problem that is the answer."""
    async with browser.ws_connect(f"/v1/instances/{instance_id}/commands") as websocket:
        await (websocket.send_str(order) if isinstance(order, str) else websocket.send_bytes(order))
        async with asyncio.timeout(10):
            message = await websocket.receive_bytes()
    assert message[0] == 4
    problem: dict[str, str] = json.loads(message[1:])
    return problem


async def test_who_sends_more_than_allowed_is_cut_off(service: Service) -> None:
    instance = await service.obtain()
    for messages in ([b"\0" + b"x" * (1 << 18)] * 9, [b"\0" + b"x" * (4 << 20)], ["text"]):
        async with service.browser() as browser:
            url = f"/v1/instances/{instance.id}/commands"
            async with browser.ws_connect(url) as websocket:
                await websocket.send_json({"words": ["sh", "-c", "echo $$ > pid; exec sleep 60"]})
                pid = await written(folder(instance) / "pid")
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    for message in messages:
                        send = websocket.send_str if isinstance(message, str) else websocket.send_bytes
                        await send(message)  # type: ignore[arg-type]
                async with asyncio.timeout(20):
                    while not websocket.closed:
                        await websocket.receive()
        await gone(pid)
        (folder(instance) / "pid").unlink()
    assert WINDOW == 1 << 20


async def test_plain_programs_run_commands(service: Service) -> None:
    instance = await service.obtain()

    def work() -> None:
        with connect(data=service.house.data) as client:
            data = b"0123456789abcdef" * 200_000
            assert client.run(instance.id, ["cat"], input=data) == (0, data, b"")
            told: list[tuple[str, bytes]] = []
            script = "echo out; sleep 0.1; echo err >&2; exit 4"
            code, out, err = client.run(
                instance.id,
                ["sh", "-c", script],
                on_output=lambda stream, chunk: told.append((stream, chunk)),
            )
            assert (code, out, err) == (4, b"", b"")
            assert told == [("stdout", b"out\n"), ("stderr", b"err\n")]
            with pytest.raises(NotFound):
                client.run("i-none", ["true"])

    await asyncio.to_thread(work)
