"""One application: started when it is asked for, told of when it does not start, ended with the session's server."""

from __future__ import annotations

import asyncio
import os
import signal
import stat

import aiohttp

from gridcloud.settings.apps import AppSettings
from tests.apps.running import PREFIX, run_app

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[3])
from serving import Pages, PagesServer

class Thing(Pages):
    def do_GET(self):
        if self.path == "/leave":
            os._exit(0)
        self.say(f"{os.getpid()} {self.path} {sys.argv[2]} {os.environ['COLOUR']}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.say(body.decode()[::-1])

# Something that wants to stay: of another session of processes, and nobody's child.
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
PagesServer(sys.argv[1], Thing).serve_forever()
"""

THING = AppSettings(
    title="Thing <b>",
    command=("{python}", "-c", PROGRAM, "{socket}", "{base_url}", "{files}"),
    environment={"COLOUR": "blue"},
    install="Install <thing>.",
)


def saying(code: str, **more: object) -> AppSettings:
    return THING.model_copy(update={"command": ("{python}", "-c", code, "{socket}"), **more})


async def test_it_is_started_when_it_is_asked_for() -> None:
    async with run_app(THING) as app:
        assert app.processes() == []
        assert stat.S_IMODE(app.socket.parent.stat().st_mode) == 0o700
        first, second = await asyncio.gather(app.get("/one?two"), app.get("/one?two"))
        assert first == second
        status, text = first
        pid, path, base, colour = text.split()
        assert (status, path, base, colour) == (200, "/one?two", f"{PREFIX}thing/", "blue")
        assert stat.S_IMODE((app.folder / "sockets/thing.in").stat().st_mode) == 0o600
        assert stat.S_IMODE(app.socket.stat().st_mode) == 0o600
        body = "word" * 200_000
        assert await app.get("/", data=body.encode()) == (200, body[::-1])

        # What has ended is started again by the next who asks; what it left is ended before.
        before = app.processes()
        try:
            await app.get("/leave")
        except aiohttp.ClientError:
            pass
        status, text = await app.get()
        assert status == 200
        assert text.split()[0] != pid
        assert not set(app.processes()) & set(before)


async def test_it_ends_with_the_session_however_that_ends() -> None:
    async with run_app(THING) as app:
        await app.get()
        assert len(app.processes()) == 2
        (app.folder / "sockets" / "thing.in.d").mkdir()  # what it did not remove itself
        (app.folder / "sockets" / "thing.in.d" / "key").touch()
        os.killpg(app.server.pid, signal.SIGKILL)
        await app.gone()


async def test_what_is_not_there_is_told() -> None:
    async with run_app(THING.model_copy(update={"command": ("no-such-program", "{socket}")})) as app:
        status, text = await app.get()
        assert status == 503
        assert "Thing &lt;b&gt; is not on this machine. Install &lt;thing&gt;." in text
        assert "There is no program &#x27;no-such-program&#x27; here." in text
    async with run_app(saying("import sys; sys.exit(print('It needs <more>.') or 69)")) as app:
        status, text = await app.get()
        assert status == 503
        assert "is not on this machine. Install &lt;thing&gt;." in text
        assert "It needs &lt;more&gt;." in text


async def test_what_does_not_start_is_told_with_its_last_words() -> None:
    async with run_app(saying("raise SystemExit('no <licence>')")) as app:
        answers = await asyncio.gather(app.get(), app.get())
        assert answers[0] == answers[1]
        status, text = answers[0]
        assert status == 503
        assert "has ended by itself (exit code 1)" in text
        assert "no &lt;licence&gt;" in text
    async with run_app(saying("import time; time.sleep(1000)", start=1)) as app:
        status, text = await app.get()
        assert status == 503
        assert "did not answer within 1 s" in text
        assert app.processes() == []


async def test_a_folder_of_another_is_not_used() -> None:
    async with run_app(THING) as app:
        command = app.folder / "apps" / "app.py"
        (app.folder / "open").mkdir()
        (app.folder / "open").chmod(0o755)
        process = await asyncio.create_subprocess_exec(
            *("python3", "-I", str(command), str(app.folder / "apps/apps.json"), "thing"),
            *(str(app.folder / "open" / "thing"), str(os.getpid())),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode
        assert b"is not a folder of ours alone" in said
