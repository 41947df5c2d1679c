"""What every connection does, as a suite to subclass.

    class TestMyConnection(ConnectionContract):
        @pytest.fixture
        async def connect(self, ...):
            return lambda: MyConnection.open(address)

``connect`` opens one more connection to the same instance, whose own folder is writable; the suite closes it. The
instance needs a POSIX shell and the usual small programs (cat, sleep, stat, …), nothing else.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.connections import programs
from gridcloud.connections.driver import Command, Connection, Process, Resizable, TerminalSize
from gridcloud.connections.model import Endpoint, Port, Socket
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    PortTaken,
)

__all__ = ["Connect", "ConnectionContract", "FileCredentials", "answers", "echo_server", "talk"]

Connect = Callable[[], Awaitable[Connection]]

HOSTILE = [
    "a b; touch /tmp/gridcloud-was-here",
    "$(touch /tmp/gridcloud-was-here) `touch /tmp/gridcloud-was-here` ${HOME} $((1+1))",
    "'single' \"double\" \\back\\slash\\ \\n \\0101 %s %b !history",
    "line\nline\n\ntrailing newlines\n\n",
    "\ttab \r carriage \x1b[31m \x7f \x01",
    "-n",
    "",
    " ",
    "*",
    "ünïcødé 日本語 🦀",
    "\udc80\udcff not UTF-8 \udce9",
    "x" * 300,
    "=a=b=",
    "#comment",
    "~root",
]
NAMES = [
    "plain",
    "with space",
    "ünï 日本",
    "new\nline",
    "-dash",
    "quo'te\"s",
    "$(date)",
    "\\back",
    ".hidden",
    "x" * 200,
]


class FileCredentials:
    """Credentials from key files: the service's own key, and perhaps an authority that signs certificates."""

    def __init__(self, key: Path, authority: Path | None = None) -> None:
        self._key = key
        self._authority = authority

    async def private_key(self, reference: str) -> asyncssh.SSHKey:
        """Return the key of ``file:PATH``, or the service's own."""
        path = Path(reference.removeprefix("file:")) if reference else self._key
        try:
            return asyncssh.read_private_key(path)
        except FileNotFoundError as error:
            raise NotFound(
                f"There is no private key {str(path)!r}.", remedy="Make one with ssh-keygen."
            ) from error

    async def user_certificate(self, principal: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        """Return a new key with a certificate of five minutes."""
        if self._authority is None:
            raise NotAuthenticated("There is no authority to sign a certificate.")
        key = asyncssh.generate_private_key("ssh-ed25519")
        authority = asyncssh.read_private_key(self._authority)
        certificate = authority.generate_user_certificate(
            key, principal, principals=[principal], valid_before="+5m", permit_agent_forwarding=False
        )
        return key, certificate


class ConnectionContract:
    """The promises of `gridcloud.connections.driver.Connection`."""

    @pytest.fixture
    async def connect(self) -> Connect:
        """Given by the subclass: opens one more connection to the same instance."""
        raise NotImplementedError

    @pytest.fixture
    async def connection(self, connect: Connect) -> AsyncIterator[Connection]:
        opened = await connect()
        yield opened
        await opened.close()

    @pytest.fixture
    def here(self) -> Iterator[Path]:
        """A folder of ours, with a short path, for sockets live in it."""
        with tempfile.TemporaryDirectory(prefix="gc") as folder:
            yield Path(folder)

    # Commands

    async def test_streams_come_apart_and_the_exit_code_is_told(self, connection: Connection) -> None:
        done = await connections.run(connection, _shell("echo out; echo err >&2; exit 3"))
        assert (done.code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    async def test_a_program_that_does_not_exist_ends_with_127(self, connection: Connection) -> None:
        done = await connections.run(connection, Command(("no-such-program-here", "x")))
        assert done.code == 127
        assert b"no-such-program-here" in done.stderr

    async def test_a_working_directory_that_does_not_exist_is_not_found(self, connection: Connection) -> None:
        with pytest.raises(NotFound, match="no-such-folder"):
            await connection.start(Command(("true",), directory="no-such-folder"))

    async def test_a_command_runs_in_its_directory(self, connection: Connection) -> None:
        await connections.run(connection, Command(("mkdir", "-p", "a b/'c'")))
        done = await connections.run(connection, Command(("pwd",), directory="a b/'c'"))
        assert done.stdout.endswith(b"/a b/'c'\n")

    @pytest.mark.parametrize("words", [(), ("",), ("-c", "x"), ("echo", "a\0b")])
    async def test_what_no_system_can_start_is_refused(
        self, connection: Connection, words: tuple[str, ...]
    ) -> None:
        with pytest.raises(InvalidRequest):
            await connection.start(Command(words))

    @pytest.mark.parametrize("name", ["a b", "", "1x", "a=b", "x;touch y", "$(x)"])
    async def test_a_variable_with_no_proper_name_is_refused(self, connection: Connection, name: str) -> None:
        with pytest.raises(InvalidRequest):
            await connection.start(Command(("true",), {name: "x"}))

    async def test_words_arrive_as_they_are(self, connection: Connection) -> None:
        done = await connections.run(connection, Command(("printf", "%s\\0", *HOSTILE)))
        assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in HOSTILE]

    async def test_values_of_variables_arrive_as_they_are(self, connection: Connection) -> None:
        values = {f"GC_{number}": value for number, value in enumerate(HOSTILE)}
        program = "".join(f'printf "%s\\0" "${name}";' for name in values)
        done = await connections.run(connection, Command(("sh", "-c", program), values))
        assert done.stdout.split(b"\0")[:-1] == [os.fsencode(value) for value in HOSTILE]

    async def test_a_long_value_arrives(self, connection: Connection) -> None:
        done = await connections.run(
            connection, Command(("sh", "-c", 'printf %s "$LONG"'), {"LONG": "é;" * 21845})
        )
        assert done.stdout == b"\xc3\xa9;" * 21845

    async def test_values_of_variables_stand_in_no_argument_vector(self, connection: Connection) -> None:
        secret = secrets.token_hex(16)
        process = await connection.start(Command(("sh", "-c", "echo on; exec sleep 60"), {"SECRET": secret}))
        assert await _first(process) == b"on\n"
        # The pattern comes in two halves, and is matched by the shell, or the search would find itself.
        look = (
            'for f in /proc/[0-9]*/cmdline; do w=$(tr "\\0" " " <$f); case $w in *$1$2*) echo $f;; esac; done'
        )
        command = Command(("sh", "-c", look, "sh", secret[:16], secret[16:]))
        assert (await connections.run(connection, command)).stdout == b""
        await process.signal("KILL")
        assert await process.wait() == 128 + signal.SIGKILL

    async def test_input_is_read_to_its_end(self, connection: Connection) -> None:
        data = os.urandom(300_000)
        done = await connections.run(connection, Command(("cat",)), input=data)
        assert done.stdout == data

    async def test_input_is_ignored_once_the_process_has_ended(self, connection: Connection) -> None:
        process = await connection.start(Command(("true",)))
        assert await process.wait() == 0
        await process.write(b"nobody reads this")
        await process.close_input()
        await process.close_input()
        await process.signal("TERM")
        assert await process.wait() == 0

    async def test_much_output_arrives_whole(self, connection: Connection) -> None:
        done = await connections.run(connection, _shell("head -c 10000000 /dev/zero"), timeout=60)
        assert done.stdout == bytes(10_000_000)

    async def test_many_run_at_once(self, connection: Connection) -> None:
        all_of_them = (connections.run(connection, Command(("cat",)), input=b"%d" % n) for n in range(20))
        assert [done.stdout for done in await asyncio.gather(*all_of_them)] == [b"%d" % n for n in range(20)]

    @pytest.mark.parametrize("name", ["TERM", "INT", "KILL", "HUP", "USR1"])
    async def test_a_signal_ends_it_with_128_and_its_number(self, connection: Connection, name: str) -> None:
        process = await connection.start(_shell("trap - INT; echo on; exec sleep 60"))
        await _first(process)
        await process.signal(name)
        assert await process.wait() == 128 + signal.Signals[f"SIG{name}"]

    async def test_a_signal_reaches_children(self, connection: Connection) -> None:
        process = await connection.start(_shell("sleep 61 & echo $!; wait; sleep 62"))
        child = int(await _first(process))
        await process.signal("TERM")
        await process.wait()
        assert await _gone(connection, child)

    async def test_an_unknown_signal_is_refused(self, connection: Connection) -> None:
        process = await connection.start(Command(("true",)))
        with pytest.raises(InvalidRequest):
            await process.signal("KILL; touch x")
        await process.wait()

    async def test_a_terminal_has_its_size_and_takes_another(self, connection: Connection) -> None:
        ask = 'stty size; read x; stty size; printf %s "$V"'
        command = Command(("sh", "-c", ask), {"V": "v" * 9000}, terminal=TerminalSize(101, 42))
        process = await connection.start(command)
        assert isinstance(process, Resizable)
        output = process.stdout()
        seen = b""
        async for chunk in output:
            seen += chunk
            if b"42 101" in seen:
                break
        await process.resize(TerminalSize(77, 33))
        await process.write(b"go\n")
        async for chunk in output:
            seen += chunk
        assert b"33 77" in seen
        assert seen.endswith(b"v" * 9000)
        assert await process.wait() == 0

    async def test_a_raw_terminal_takes_long_lines_and_repeats_nothing(self, connection: Connection) -> None:
        command = Command(("sh", "-c", "head -n 1 | wc -c"), terminal=TerminalSize(), raw=True)
        process = await connection.start(command)
        await process.write(b"x" * 9000 + b"\n")
        said = b"".join([chunk async for chunk in process.stdout()])
        assert (said.strip(), await process.wait()) == (b"9001", 0)

    async def test_run_kills_what_takes_too_long_or_says_too_much(self, connection: Connection) -> None:
        with pytest.raises(GridcloudError, match="did not end"):
            await connections.run(connection, Command(("sleep", "63")), timeout=0.2)
        with pytest.raises(GridcloudError, match="more than"):
            await connections.run(connection, Command(("cat", "/dev/zero")), limit=100_000)

    # Files

    async def test_files_travel_both_ways(self, connection: Connection, here: Path) -> None:
        source = here / "source"
        source.write_bytes(os.urandom(1_000_003))
        source.chmod(0o750)
        seen: list[tuple[str, int, int]] = []
        await connection.put(source, "new/folders/file", lambda *progress: seen.append(progress))
        assert seen[-1][1:] == (1_000_003, 1_000_003)
        mode = await connections.run(connection, Command(("stat", "-c", "%a %s", "new/folders/file")))
        assert mode.stdout == b"750 1000003\n"
        await connection.get("new/folders/file", here / "back" / "file")
        assert (here / "back" / "file").read_bytes() == source.read_bytes()
        assert (here / "back" / "file").stat().st_mode & 0o777 == 0o750

    async def test_a_file_replaces_a_file(self, connection: Connection, here: Path) -> None:
        for text in ("the first, longer", "second"):
            (here / "file").write_text(text)
            await connection.put(here / "file", "file")
        assert (await connections.run(connection, Command(("cat", "file")))).stdout == b"second"

    async def test_folders_travel_both_ways(self, connection: Connection, here: Path) -> None:
        tree = _make_tree(here / "tree")
        await connection.put(tree, "copy")
        await connection.put(tree, "copy")  # onto itself: nothing changes
        await connection.get("copy", here / "back")
        assert _contents(here / "back") == _contents(tree)

    async def test_many_small_files_travel(self, connection: Connection, here: Path) -> None:
        (here / "many").mkdir()
        for number in range(200):
            (here / "many" / f"{number}").write_text(f"{number}")
        await connection.put(here / "many", "many")
        await connection.get("many", here / "back")
        assert _contents(here / "back") == _contents(here / "many")

    async def test_what_is_missing_is_not_found(self, connection: Connection, here: Path) -> None:
        with pytest.raises(NotFound):
            await connection.put(here / "nothing", "x")
        with pytest.raises(NotFound):
            await connection.get("nothing", here / "x")
        assert not (here / "x").exists()

    async def test_nothing_half_made_is_left(self, connection: Connection, here: Path) -> None:
        def stop(path: str, done: int, total: int) -> None:
            if done > 100_000:
                raise InterruptedError("enough")

        (here / "big").write_bytes(bytes(8_000_000))
        (here / "tree").mkdir()
        (here / "tree" / "big").write_bytes(bytes(8_000_000))
        for source in ("big", "tree"):
            with pytest.raises((InterruptedError, GridcloudError)):
                await connection.put(here / source, "folder/copy", stop)
        listing = await connections.run(connection, Command(("ls", "-A", "folder")))
        assert listing.stdout == b""
        await connection.put(here / "tree", "whole")
        for source in ("whole", "whole/big"):
            with pytest.raises((InterruptedError, GridcloudError)):
                await connection.get(source, here / "back" / "copy", stop)
        assert list((here / "back").iterdir() if (here / "back").exists() else []) == []

    async def test_nothing_is_written_through_a_link(self, connection: Connection, here: Path) -> None:
        (here / "outside").mkdir()
        (here / "back").mkdir()
        (here / "back" / "sub").symlink_to(here / "outside")
        await connections.run(connection, _shell("mkdir -p tree/sub; echo x >tree/sub/file"))
        await connection.get("tree", here / "back")
        assert list((here / "outside").iterdir()) == []
        assert (here / "back" / "sub" / "file").read_text() == "x\n"

    # Ports

    async def test_what_listens_there_is_reached_from_here(self, connection: Connection, here: Path) -> None:
        async with echo_server(Port()) as echo:
            for there in (Port(), Socket(path="there.sock")):
                exposed = await connection.expose(echo, there)
                for local in (Port(), Socket(path=str(here / "local.sock"))):
                    forward = await connection.forward(exposed.endpoint, local)
                    assert await talk(forward.endpoint, b"hello" * 50_000) == b"hello" * 50_000
                    await forward.close()
                    await forward.close()
                    if forward.endpoint != exposed.endpoint:
                        assert not await answers(forward.endpoint)
                await exposed.close()
                await exposed.close()

    async def test_a_socket_of_ours_is_reached_from_there(self, connection: Connection, here: Path) -> None:
        async with echo_server(Socket(path=str(here / "echo.sock"))) as echo:
            for there in (Port(), Socket(path="there.sock")):
                exposed = await connection.expose(echo, there)
                forward = await connection.forward(exposed.endpoint, Socket(path=str(here / "local.sock")))
                assert await talk(forward.endpoint, b"hello") == b"hello"
                await forward.close()
                await exposed.close()

    async def test_a_port_that_is_taken_is_refused(self, connection: Connection, here: Path) -> None:
        async with echo_server(Port()) as echo, echo_server(Port()) as other:
            taken = await connection.expose(echo, Port())
            assert isinstance(other, Port)
            with pytest.raises(PortTaken):
                await connection.forward(taken.endpoint, other)
            if taken.endpoint != echo:  # else nothing lies between, and there is nothing to take
                with pytest.raises(PortTaken):
                    await connection.expose(other, taken.endpoint)

    async def test_a_forward_to_nothing_hangs_up(self, connection: Connection, here: Path) -> None:
        forward = await connection.forward(Socket(path="nothing.sock"), Socket(path=str(here / "local.sock")))
        assert await talk(forward.endpoint, b"hello") == b""

    # The end

    async def test_it_answers_until_it_is_closed(self, connection: Connection) -> None:
        await connection.check()
        await connection.close()
        await connection.close()
        with pytest.raises(ConnectionLost):
            await connection.check()
        with pytest.raises(ConnectionLost):
            await connection.start(Command(("true",)))

    async def test_what_was_started_ends_with_it(self, connect: Connect, connection: Connection) -> None:
        another = await connect()
        try:
            process = await another.start(_shell('trap "" TERM HUP; sleep 64 & echo $$ $!; wait; sleep 65'))
            ids = [int(word) for word in (await _first(process)).split()]
        finally:
            await another.close()
        assert [await _gone(connection, pid) for pid in ids] == [True, True]

    async def test_closing_cuts_forwards(self, connect: Connect, here: Path) -> None:
        connection = await connect()
        async with echo_server(Port()) as echo:
            exposed = await connection.expose(echo, Socket(path="there.sock"))
            forward = await connection.forward(exposed.endpoint, Socket(path=str(here / "local.sock")))
            assert await talk(forward.endpoint, b"x") == b"x"
            await connection.close()
            assert not await answers(forward.endpoint)

    # Detached programs

    async def test_a_detached_program_outlives_the_connection(
        self, connect: Connect, connection: Connection
    ) -> None:
        another = await connect()
        command = Command(
            ("sh", "-c", 'echo "$V"; while [ ! -e end ]; do sleep 0.05; done; exit 5'), {"V": "a\nb;c"}
        )
        try:
            program = await programs.launch(another, command, name="one", folder="programs")
            assert await programs.launch(another, command, name="one", folder="programs") == program
        finally:
            await another.close()
        program = programs.Program.model_validate_json(program.model_dump_json())
        try:
            assert await programs.status(connection, program) == programs.Running()
            assert await programs.find(connection, name="one", folder="programs") == program
            await connections.run(connection, Command(("touch", "end")))
            log = b"".join([chunk async for chunk in programs.follow(connection, program)])
            assert log == b"a\nb;c\n" == await programs.tail(connection, program)
            assert await programs.status(connection, program) == programs.Exited(5)
            assert await programs.find(connection, name="one", folder="programs") is None
        finally:
            await programs.stop(connection, program, grace=0.1)

    async def test_a_detached_program_is_stopped_with_all_it_started(self, connection: Connection) -> None:
        stubborn = _shell(
            'setsid sleep 66 & echo $!; trap "" TERM; (trap "" TERM; sleep 67) & echo $!; wait; sleep 68'
        )
        program = await programs.launch(connection, stubborn, name="two", folder="programs")
        pids: list[bytes] = []
        while len(pids) < 2:
            pids = (await programs.tail(connection, program)).split()
        await programs.stop(connection, program, grace=0.3)
        assert await programs.status(connection, program) == programs.Exited(128 + signal.SIGKILL)
        assert [await _gone(connection, int(pid)) for pid in pids] == [True, True]
        await programs.stop(connection, program)

    async def test_a_detached_program_that_cannot_start_says_so(self, connection: Connection) -> None:
        program = await programs.launch(
            connection, Command(("no-such-program",)), name="three", folder="programs"
        )
        async for _ in programs.follow(connection, program):
            pass
        assert await programs.status(connection, program) == programs.Exited(127)
        assert b"no-such-program" in await programs.tail(connection, program)
        with pytest.raises(NotFound):
            await programs.launch(
                connection, Command(("true",), directory="nope"), name="four", folder="programs"
            )


def _shell(text: str) -> Command:
    """A command of the suite's own text."""
    return Command(("sh", "-c", text))


async def _first(process: Process) -> bytes:
    """Return the first line of output."""
    seen = b""
    async for chunk in process.stdout():
        seen += chunk
        if b"\n" in seen:
            break
    return seen


async def _gone(connection: Connection, pid: int) -> bool:
    """Tell whether a process of the instance ends within half a minute (a zombie has ended): a host that does other
    work besides is slow to."""
    look = (
        'n=0; while [ $n -lt 600 ]; do case $(cat /proc/$1/stat 2>/dev/null) in ""|*") Z "*) exit 0;; esac;'
    )
    look += " n=$((n+1)); sleep 0.05; done; exit 1"
    return (await connections.run(connection, Command(("sh", "-c", look, "sh", str(pid))))).code == 0


async def talk(endpoint: Endpoint, data: bytes) -> bytes:
    """Say ``data`` to what listens there and return all it answers."""
    reader, writer = await _reach(endpoint)
    try:
        sending = asyncio.ensure_future(_say(writer, data))
        answer = b""
        while len(answer) < len(data) and (block := await asyncio.wait_for(reader.read(1 << 18), 20)):
            answer += block
        await asyncio.gather(sending, return_exceptions=True)
    except OSError:
        return b""
    else:
        return answer
    finally:
        writer.close()


async def answers(endpoint: Endpoint) -> bool:
    """Tell whether anything takes a connection and answers."""
    try:
        return await talk(endpoint, b"?") == b"?"
    except OSError:
        return False


def _make_tree(folder: Path) -> Path:
    """A folder with every kind of name, nested, with links, an empty file and an empty folder."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty folder").mkdir()
    (folder / "empty").touch()
    for name in NAMES:
        (folder / name).write_text(name)
        (folder / "deep" / "er" / name).write_bytes(os.urandom(1000))
    (folder / "plain").chmod(0o700)
    (folder / "deep").chmod(0o711)
    (folder / "link").symlink_to("plain")
    (folder / "deep" / "dangling").symlink_to("/nowhere/at/all")
    return folder


def _contents(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Every path below a folder with its permission bits and what it holds."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = (0, str(path.readlink()))
        else:
            found[name] = (path.stat().st_mode & 0o777, path.read_bytes() if path.is_file() else None)
    return found


class echo_server:  # noqa: N801 (used as a context manager)
    """Listens here and says back what it hears."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Endpoint:
        if isinstance(self._endpoint, Socket):
            self._server = await asyncio.start_unix_server(_echo, self._endpoint.path)
            return self._endpoint
        self._server = await asyncio.start_server(_echo, self._endpoint.host, self._endpoint.port)
        return Port(port=self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    except OSError:  # the other end hung up
        return
    finally:
        writer.close()


async def _say(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _reach(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(endpoint, Socket):
        return await asyncio.open_unix_connection(endpoint.path)
    return await asyncio.open_connection(endpoint.host, endpoint.port)
