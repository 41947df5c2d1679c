"""Programs forked from a server: what they get, what they leave, and who outlives whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.connections.forkserver import ForkServer, Program
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import LocalAddress
from gridcloud.errors import InvalidRequest

TOY = Program("toy", "tests.connections.toy_program", preload=("json", "time"))
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ForkServer]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with tempfile.TemporaryDirectory(prefix="gct-fork-") as folder:
        server = ForkServer(Path(folder) / "private", [TOY], block=["blocked_module"])
        await server.start()
        yield server
        await server.close()


async def run(server: ForkServer, folder: Path, *words: str, **more: Any) -> int:
    """Fork the toy and return its process id."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = more.pop("environment", {"PATH": os.environ["PATH"]})
    more.setdefault("directory", str(folder))
    pid = await server.fork(Command(("toy", *words), environment), str(folder / "log"), **more)
    assert pid is not None, (server._folder / "log").read_text()
    return pid


async def ended(folder: Path) -> int:
    """Return the exit code once it is written."""
    await until((folder / "exit").exists)
    pid, code = (folder / "exit").read_text().split()
    assert (folder / "pid").read_text().split()[0] == pid
    return int(code)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - nobody here is told of it
            await asyncio.sleep(0.01)


async def told(folder: Path) -> dict[str, Any]:
    assert await ended(folder) == 0, (folder / "log").read_text()
    return dict(json.loads((folder / "log").read_text()))


async def test_gets_what_it_was_given_and_nothing_else(server: ForkServer, tmp_path: Path) -> None:
    environment = {"ONE": "a b; $(touch x)\n'\"", "GRIDCLOUD_INSTANCE": "abc-1"}
    pid = await run(server, tmp_path, "tell", environment=environment)
    seen = await told(tmp_path)
    assert seen["argv"] == ["toy", "tell"]
    assert seen["environment"] == environment
    assert seen["directory"] == str(tmp_path)
    assert seen["pid"] == seen["session"] == pid
    assert seen["imported_in"] != pid
    assert seen["files"] == ["0", "1", "2", "3"]  # the last is the listing itself
    assert seen["shown"].strip("\0") == "GRIDCLOUD_INSTANCE=abc-1"
    assert seen["blocked"] is None
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_exit_codes_and_failures_are_written_down(server: ForkServer, tmp_path: Path) -> None:
    await run(server, tmp_path / "a", "exit", "7")
    assert await ended(tmp_path / "a") == 7
    await run(server, tmp_path / "b", "fail")
    assert await ended(tmp_path / "b") == 1
    assert "RuntimeError: it failed" in (tmp_path / "b" / "log").read_text()
    pid = await run(server, tmp_path / "c", "sleep")
    os.kill(pid, signal.SIGTERM)
    assert await ended(tmp_path / "c") == 128 + signal.SIGTERM


async def test_fifty_at_once(server: ForkServer, tmp_path: Path) -> None:
    pids = await asyncio.gather(*(run(server, tmp_path / f"{n}", "exit", f"{n}") for n in range(50)))
    assert len(set(pids)) == 50
    assert [await ended(tmp_path / f"{n}") for n in range(50)] == list(range(50))


async def test_output_is_appended_and_never_through_a_link(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    await run(server, tmp_path, "fail")
    await ended(tmp_path)
    assert (tmp_path / "log").read_text().startswith("before\nTraceback")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "log").symlink_to(elsewhere)
    assert await server.fork(Command(("toy", "tell")), str(linked / "log"), directory="/") is None
    assert elsewhere.read_text() == "kept"


async def test_what_cannot_be_forked_is_left_to_others(server: ForkServer, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert await server.fork(Command(("ls",)), log, directory="/") is None
    assert await server.fork(Command(("toy", "tell")), log, directory=str(tmp_path / "none")) is None
    assert await server.fork(Command(("toy", "tell")), log, directory="/", user="no-such-user") is None
    assert await server.fork(Command(("toy", "tell")), log, directory="/", enter=("/bin/false",)) is None
    assert server.alive


async def test_enters_the_limits(server: ForkServer, tmp_path: Path) -> None:
    """The instance's own command says what to do; here one that has no groups."""
    enter = tmp_path / "enter"
    said = "export CUDA_VISIBLE_DEVICES=\\nexport A=b c\\ndata 4000000000\\nnice 1\\n"
    enter.write_text(f'[ "$1" = --adopt ] && printf "{said}"')
    await run(server, tmp_path, "tell", enter=("/bin/sh", str(enter)))
    seen = await told(tmp_path)
    assert seen["environment"]["A"] == "b c"
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.needs_root
async def test_runs_as_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = ForkServer(tmp_path, [Program("toy", TOY.module)])  # it need not read this Python while it runs
    await server.start()
    with tempfile.TemporaryDirectory(prefix="gct-fork-") as name:
        folder = Path(name)
        os.chown(folder, 65534, 65534)
        await run(server, folder, "tell", user="nobody", directory="/")
        seen = await told(folder)
        assert seen["user"] == 65534
        assert {(folder / file).stat().st_uid for file in ("log", "exit")} == {65534}
    await server.close()


async def test_a_dead_server_is_started_again_and_its_programs_live_on(
    server: ForkServer, tmp_path: Path
) -> None:
    pid = await run(server, tmp_path / "a", "sleep")
    assert server._process is not None
    server._process.kill()
    await server._process.wait()
    assert await server.fork(Command(("toy", "tell")), str(tmp_path / "log"), directory="/") is None
    os.kill(pid, 0)
    await until(lambda: server.alive)
    await run(server, tmp_path / "b", "exit", "3")
    assert await ended(tmp_path / "b") == 3
    os.kill(pid, signal.SIGKILL)
    assert await ended(tmp_path / "a") == 128 + signal.SIGKILL


async def test_ends_with_its_parent_and_its_programs_live_on(tmp_path: Path) -> None:
    script = f"""
import asyncio
from pathlib import Path
from tests.connections.test_forkserver import TOY, ForkServer, run
async def main():
    server = ForkServer(Path({str(tmp_path / "server")!r}), [TOY])
    await server.start()
    pid = await run(server, Path({str(tmp_path / "work")!r}), "sleep")
    print(server._process.pid, pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    server, pid = (int(word) for word in (await parent.stdout.readline()).split())
    parent.kill()
    await parent.communicate()
    await until(lambda: not _runs(server))
    assert _runs(pid)
    os.kill(pid, signal.SIGKILL)
    assert await ended(tmp_path / "work") == 128 + signal.SIGKILL


async def test_a_program_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    server = ForkServer(tmp_path, [Program("x", "no_such_module")])
    with pytest.raises(InvalidRequest, match="No module named 'no_such_module'"):
        await server.start()
    assert not server.alive
    await server.close()
    await server.close()


async def test_the_socket_is_private(server: ForkServer) -> None:
    assert (server._folder / "socket").stat().st_mode & 0o777 == 0o600
    assert server._folder.stat().st_mode & 0o777 == 0o700
    # What is sent but no request harms nobody.
    for text in (b"", b"{", b"[]", b'{"program": "none"}'):
        reader, writer = await asyncio.open_unix_connection(server._folder / "socket")
        writer.write(text)
        writer.write_eof()
        assert b"error" in await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    assert server.alive


async def test_detached_programs_of_this_computer_are_forked(server: ForkServer, tmp_path: Path) -> None:
    connection = await LocalConnection.open(LocalAddress(directory=str(tmp_path)), server)
    try:
        command = Command(("toy", "tell"), {"ONE": "1"})
        program = await programs.launch(connection, command, name="first", folder="programs")
        folder = tmp_path / "programs" / "first"
        seen = await told(folder)
        assert seen["pid"] == program.pid != seen["imported_in"]
        assert seen["environment"]["ONE"] == "1"
        assert seen["directory"] == str(tmp_path)
        assert await programs.status(connection, program) == programs.Exited(0)
        program = await programs.launch(
            connection, Command(("toy", "sleep")), name="second", folder="programs"
        )
        assert await programs.find(connection, name="second", folder="programs") == program
        assert await programs.status(connection, program) == programs.Running()
        await programs.stop(connection, program)
        await until((tmp_path / "programs" / "second" / "exit").exists)
        assert await programs.status(connection, program) == programs.Exited(128 + signal.SIGTERM)
    finally:
        await connection.close()


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
