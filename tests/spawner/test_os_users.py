"""A hub run as root: sessions on this computer as the accounts of their owners, who are kept apart."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psutil
import pytest
import pytest_asyncio
from yarl import URL

import gridcloud
from gridcloud.client import connect_async
from gridcloud.settings import socket_path
from tests.spawner.kernel import Kernel, open_kernel
from tests.spawner.uphouse import NAVIGATE, UpHouse

pytestmark = pytest.mark.needs_root

PASSWORD = secrets.token_hex(8)

PEOPLE = f"""
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = False
c.DummyAuthenticator.password = {PASSWORD!r}
"""

REFUSALS = ("PermissionError", "FileNotFoundError")
"""Of a file in a folder that one may not enter one is told either, by who asks whether it is a folder."""

NOBODY = "gcw-has-no-account"

ATTEMPTS = """
import os, socket
def attempt(verb, path):
    try:
        return [verb(path), "done"][1]
    except OSError as error:
        return type(error).__name__
def look(path):
    return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
def connect(path):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
def kill(pid):
    os.kill(int(pid), 9)
"""

ASK = """
import http.client, json, os
found = {{}}
for port in {ports}:
    for headers in ({{}}, {{"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]}}):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            link.request("GET", "{path}", headers=headers)
            found[f"{{port}} {{len(headers)}}"] = link.getresponse().status
        except Exception as error:
            found[f"{{port}} {{len(headers)}}"] = type(error).__name__
        link.close()
print(json.dumps(found))
"""

LISTEN = """
import zmq
context = zmq.Context()
ear = context.socket(zmq.SUB)
ear.setsockopt(zmq.LINGER, 0)
ear.subscribe(b"")
for port in {ports}:
    ear.connect(f"tcp://127.0.0.1:{{port}}")
def hear():
    while ear.poll(300):
        print(ear.recv_multipart())
    context.destroy()
"""
"""What a kernel publishes is signed, not sealed: whoever reaches its socket reads it."""

# A tester's Python may lie in a home that only root can enter. For one hub only, that home gets another mode.
REMOUNT = r"""
set -e
mount --make-rprivate /
mode=$1 closed=$2; shift 2
behind=$(mktemp -d /tmp/gcu-behind-XXXXXX)
mount --rbind "$closed" "$behind"
mount -t tmpfs -o mode=$mode none "$closed"
for one in "$behind"/* "$behind"/.[!.]*; do
    [ -d "$one" ] || continue
    mkdir "$closed/${one##*/}"
    mount --rbind "$one" "$closed/${one##*/}"
done
umount -l "$behind"
rmdir "$behind"
exec "$@"
"""


@dataclass
class Person:
    """One of two people: the account, the path of the session, an API token, and where the session runs."""

    name: str
    path: str
    token: str
    browser: aiohttp.ClientSession
    kernel: Kernel
    seconds: float
    server: psutil.Process

    @property
    def account(self) -> pwd.struct_passwd:
        """The entry of the account."""
        return pwd.getpwnam(self.name)

    @property
    def session(self) -> str:
        """The name of the instance, which nobody else need know."""
        return str(self.server.environ()["GRIDCLOUD_INSTANCE"])

    def asking(self, hub: UpHouse) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        """Open a client with the person's API token."""
        return hub.api(self.token)

    async def sees(self, code: str) -> Any:
        """Return what an expression is in the person's kernel."""
        said = await self.kernel.run(f"import json, os\nprint(json.dumps({code}))")
        try:
            return json.loads(said)
        except ValueError:
            raise AssertionError(said) from None


@pytest.fixture(scope="module")
def accounts() -> Iterator[tuple[str, str]]:
    """Two ordinary accounts of this computer, gone afterwards, one of them in a group more."""
    names = (f"gcw{secrets.token_hex(3)}a", f"gcw{secrets.token_hex(3)}b")
    group = f"{names[0]}g"
    subprocess.run(["groupadd", group], check=True)
    # Far from the numbers that the first accounts of other tests' machines have: processes are told apart by them.
    keys = ("HOME_MODE=0700", f"UID_MIN={20_000 + secrets.randbelow(20_000)}", "UID_MAX=59999")
    for name in names:
        words = [word for key in keys for word in ("--key", key)]
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", *words, name], check=True)
    subprocess.run(["usermod", "--append", "--groups", group, names[0]], check=True)
    yield names
    for name in names:
        subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["groupdel", group], check=True)


@pytest.fixture(scope="module")
def hub(make_house: Callable[..., UpHouse], accounts: tuple[str, str]) -> Iterator[UpHouse]:
    """A hub at which both may log in by a password, and somebody without an account."""
    house = make_house({"here": {"driver": "local"}})
    house.folder.chmod(0o755)  # so that the data folder protects itself
    with (house.folder / "more.py").open("a") as more:  # the configuration itself takes no such authenticator
        more.write(f"{PEOPLE}c.Authenticator.allowed_users = {{*{(*accounts, NOBODY)!r}}}\n")
    if closed := closed_home():
        house.before = ("unshare", "--mount", "sh", "-c", REMOUNT, "sh", "711", closed)
    house.start()
    yield house
    house.stop()


def closed_home() -> str:
    """Return the folder that keeps other accounts from this Python, "" where there is none."""
    for path in (Path(sys.executable).resolve(), Path(sys.prefix), Path(gridcloud.__file__).parent):
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return ""


@asynccontextmanager
async def person(hub: UpHouse, name: str) -> AsyncIterator[Person]:
    """Log in, press Start, open a kernel."""
    async with hub.stranger() as browser, hub.api() as client:
        await log_in(browser, name)
        before = used(hub)
        path = await hub.spawn(client, name, {"cpus": 0.5, "memory": "512MiB"})
        server = server_of(name)
        seconds = sum(server.cpu_times()[:2])
        print(
            f"{name}: {seconds:.2f} s of CPU for the session, {used(hub) - before:.2f} s for hub and service"
        )
        token = await hub.user(client, name)
        async with hub.api(token) as own, open_kernel(own, path) as kernel:
            yield Person(name, path, token, browser, kernel, seconds, server)
        await hub.stop_server(client, name)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def people(hub: UpHouse, accounts: tuple[str, str]) -> AsyncIterator[tuple[Person, Person]]:
    """Both, with running sessions."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(person(hub, name)) for name in accounts]
        yield first, second


@pytest.mark.asyncio(loop_scope="class")
class TestTwoPeople:
    """Sessions of both, started once."""

    async def test_a_session_runs_as_its_owner(self, people: tuple[Person, Person], hub: UpHouse) -> None:
        for one in people:
            account = one.account
            groups = sorted(os.getgrouplist(one.name, account.pw_gid))
            ids = [[account.pw_uid] * 3, [account.pw_gid] * 3, groups]
            code = "[os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ['HOME'], os.getcwd()]"
            assert await one.sees(code) == [*ids, account.pw_dir, account.pw_dir]
            assert tuple(one.server.uids()) == (account.pw_uid,) * 3
            assert tuple(one.server.gids()) == (account.pw_gid,) * 3
            forkers = [words_of(parent) for parent in one.server.parents()]
            assert any("gridcloud.connections.forkserver" in words for words in forkers), forkers
            assert await one.sees("[open('made', 'w').write('x'), os.mkdir('folder')]") == [1, None]
            async with one.asking(hub) as client:
                body = {"type": "file", "format": "text", "content": "y"}
                async with client.put(f"{one.path}api/contents/saved.txt", json=body) as answer:
                    assert answer.status == 201, await answer.text()
            for name in ("made", "folder", "saved.txt"):
                found = Path(account.pw_dir, name).stat()
                assert (found.st_uid, found.st_gid) == (account.pw_uid, account.pw_gid)
            assert (
                await one.sees("os.path.exists('/proc/self/mem') and os.access('/root/.bashrc', os.W_OK)")
                is False
            )

    async def test_sessions_are_shut_to_other_users(
        self, people: tuple[Person, Person], hub: UpHouse
    ) -> None:
        for one, other in (people, people[::-1]):
            async with one.asking(hub) as client:
                for path in ("api/status", "api/kernels", "api/contents/", "files/made", "lab"):
                    async with client.get(f"{other.path}{path}", allow_redirects=False) as answer:
                        assert answer.status in (302, 403, 404), (path, answer.status)
                        assert "/hub/api/oauth2/authorize" in answer.headers.get(
                            "Location", "/hub/api/oauth2/authorize"
                        )
                async with client.post(f"{other.path}api/kernels", json={}) as answer:
                    assert answer.status == 403
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.ws_connect(f"{other.path}api/kernels/{other.kernel.id}/channels")
                assert refused.value.status == 403
                for path in (
                    f"users/{other.name}",
                    f"users/{other.name}/tokens",
                    "users",
                    "proxy",
                    "services",
                ):
                    async with client.get(f"/hub/api/{path}") as answer:
                        assert answer.status in (403, 404) or other.name not in await answer.text(), path
                for path in (f"users/{other.name}/server", f"users/{other.name}/tokens"):
                    async with client.post(f"/hub/api/{path}", json={}) as answer:
                        assert answer.status in (403, 404), path
                async with client.delete(f"/hub/api/users/{other.name}/server") as answer:
                    assert answer.status in (403, 404)
                async with client.get(f"/hub/api/users/{other.name}/server/progress") as answer:
                    assert answer.status in (403, 404)
            async with one.browser.get(f"{other.path}lab", headers=NAVIGATE) as answer:
                assert answer.status == 403, await answer.text()
                assert str(answer.url.path).startswith("/hub/")
            async with one.browser.get(f"{one.path}lab", headers=NAVIGATE) as answer:
                assert answer.status == 200, await answer.text()
            # The hub's own pages of gridcloud know only who asks.
            async with one.browser.get("/hub/gridcloud/notes", params={"user": other.name}) as answer:
                assert answer.status == 200
                assert other.name not in await answer.text()
            for page in ("/hub/home", f"/hub/spawn/{other.name}", f"/hub/user/{other.name}/", "/hub/spawn"):
                async with one.browser.get(page, headers=NAVIGATE) as answer:
                    text = await answer.text()
                    assert answer.status in (200, 403, 404), page
                    assert other.session not in text, page

    async def test_accounts_are_kept_apart(self, people: tuple[Person, Person], hub: UpHouse) -> None:
        closed = [
            hub.data,
            hub.data / "logs",
            hub.data / "hub" / "hub.sqlite",
            hub.data / "hub" / "proxy-token",
        ]
        sockets = [path for path in hub.data.rglob("*") if path.is_socket()] + [socket_path(hub.data)]
        assert any("fork" in str(path) for path in sockets), sockets
        for one, other in (people, people[::-1]):
            theirs = Path(other.account.pw_dir)
            assert await one.kernel.run(ATTEMPTS) == ""
            assert await one.sees("attempt(look, os.path.expanduser('~'))") == "done"
            runtime = list(Path(sock_of(other)).parent.iterdir())
            assert any("-ipc-" in path.name for path in runtime), runtime
            for path in (
                theirs,
                Path(instance_of(other), "work"),
                Path(sock_of(other)).parent,
                *closed,
                *runtime,
            ):
                assert await one.sees(f"attempt(look, {str(path)!r})") in REFUSALS, path
            for process in [other.server, *other.server.children(recursive=True)]:
                for name in ("environ", "mem", "fd", "maps"):
                    path = Path(f"/proc/{process.pid}/{name}")
                    assert await one.sees(f"attempt(look, {str(path)!r})") == "PermissionError", path
                assert await one.sees(f"attempt(kill, {process.pid})") == "PermissionError"
            for path in (*sockets, Path(sock_of(other))):
                assert await one.sees(f"attempt(connect, {str(path)!r})") == "PermissionError", path

    async def test_what_listens_answers_nobody_else(
        self, people: tuple[Person, Person], hub: UpHouse
    ) -> None:
        for one, other in (people, people[::-1]):
            async with await connect_async(data=hub.data, alone=True) as gridcloud:
                (session,) = await gridcloud.sessions(owner=other.name)
            assert session.endpoint is not None
            ports = sorted({*listening(hub), session.endpoint.port})
            code = ASK.format(ports=ports, path=f"{other.path}api/kernels")
            said = await one.kernel.run(code)
            for port, status in json.loads(said).items():
                assert status not in (200, 201), port

    async def test_kernels_tell_nobody_else(self, people: tuple[Person, Person]) -> None:
        one, other = people
        ports = sorted(ports_of(process.pid for process in processes_of(other.name)))
        assert await one.kernel.run(LISTEN.format(ports=ports)) == ""
        for number in range(5):
            assert await other.kernel.run(f"print('whisper', {number})") == f"whisper {number}\n"
        assert await one.kernel.run("hear()") == ""


async def test_an_owner_without_an_account_is_told_so(hub: UpHouse) -> None:
    async with hub.stranger() as browser:
        await log_in(browser, NOBODY)
        async with browser.get("/hub/spawn", headers=NAVIGATE) as answer:
            assert answer.status == 200
        data = {"cpus": "0.5", "memory": "512MiB", "_xsrf": xsrf_of(browser)}
        async with browser.post("/hub/spawn", data=data, headers=NAVIGATE) as answer:
            text = await answer.text()
        for _ in range(100):
            if "no account on this computer" in text:
                break
            await asyncio.sleep(0.1)
            async with browser.get(f"/hub/spawn-pending/{NOBODY}", headers=NAVIGATE) as answer:
                text = await answer.text()
        assert "has no account on this computer" in text, text
    await nothing_left(hub, NOBODY)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("daemon", "system account"),
        ("nobody", "system account"),
        ("0", "no account"),
        ("1000", "no account"),
        ("..", "no account"),
        ("-rf", "no account"),
        ("../../etc", "no account"),
        ("$(id)", "no account"),
        ("a;id", "no account"),
        ("{port}", "no account"),
        ("<b>x", "no account"),
        ("r%6fot", "no account"),
    ],
)
async def test_a_hostile_name_gets_nothing(hub: UpHouse, name: str, words: str) -> None:
    quoted = quote(name, safe="")
    async with hub.api() as client:
        async with client.post("/hub/api/users", json={"usernames": [name]}) as answer:
            if answer.status == 400:
                return  # refused by the hub
            assert answer.status in (201, 409), await answer.text()
        async with client.post(
            URL(f"{hub.url}/hub/api/users/{quoted}/server", encoded=True), json={}
        ) as answer:
            text = await answer.text()
            print(answer.status, text[:300])
            assert answer.status in (400, 403, 404, 409), text
            assert words in text or answer.status in (400, 404)
    await nothing_left(hub, name)


async def test_a_stop_leaves_no_process_of_the_user(hub: UpHouse, accounts: tuple[str, str]) -> None:
    for name in accounts:
        async with person(hub, name) as one:
            place = Path(instance_of(one))
            await one.sees("__import__('subprocess').Popen(['setsid', 'sleep', '600']).pid and 1")
            assert any("sleep 600" in words_of(process) for process in processes_of(name))
            path = Path(sock_of(one)).parent
            assert path.exists()
            assert place.exists()
        for _ in range(100):
            if not processes_of(name) and not place.exists() and not path.exists():
                break
            await asyncio.sleep(0.1)
        assert processes_of(name) == []
        assert not place.exists()
        assert not path.exists()
        await nothing_left(hub, name)


async def test_an_account_that_may_not_read_this_python_is_told_so(
    make_house: Callable[..., UpHouse], accounts: tuple[str, str]
) -> None:
    closed = closed_home() or str(Path(sys.prefix).parent)
    if closed == "/":
        pytest.skip("this Python lies where all may enter; run the tests in a virtual environment")
    house = make_house({"here": {"driver": "local"}})
    house.before = ("unshare", "--mount", "sh", "-c", REMOUNT, "sh", "700", closed)
    house.start()
    try:
        async with house.api() as client:
            await house.user(client, accounts[0])
            async with client.post(f"/hub/api/users/{accounts[0]}/server", json={}) as answer:
                text = await answer.text()
                assert answer.status == 400, text
        assert f"{accounts[0]} may not enter {closed}" in text
        assert "/opt" in text
        await nothing_left(house, accounts[0])
        assert processes_of(accounts[0]) == []
    finally:
        house.stop()


async def nothing_left(hub: UpHouse, owner: str) -> None:
    """Have nothing of this owner: no session, no instance."""
    async with await connect_async(data=hub.data, alone=True) as gridcloud:
        for session in await gridcloud.sessions(owner=owner):
            async for _ in gridcloud.session_events(session.id, follow=True):
                pass
        assert await gridcloud.sessions(owner=owner) == []
        assert await gridcloud.instances(owner=owner) == []


def listening(hub: UpHouse) -> set[int]:
    """Return the ports that all of the hub listens on, without kernels."""
    assert hub.process is not None
    children = psutil.Process(hub.process.pid).children(recursive=True)
    return ports_of(child.pid for child in children if "ipykernel" not in words_of(child))


def ports_of(processes: Iterable[int]) -> set[int]:
    """Return the ports that processes listen on."""
    pids = set(processes)
    return {
        int(one.laddr[1])
        for one in psutil.net_connections("tcp")
        if one.pid in pids and one.status == psutil.CONN_LISTEN and one.laddr
    }


def sock_of(one: Person) -> str:
    """Return where a person's server listens."""
    return next(word for word in one.server.cmdline() if "ServerApp.sock" in word).split("=")[1]


def instance_of(one: Person) -> str:
    """Return the folder of a person's instance."""
    files = next(word for word in one.server.cmdline() if "labextensions" in word).split("=")[1]
    return str(Path(files).parents[3])


def xsrf_of(browser: aiohttp.ClientSession) -> str:
    """Return the cookie that forms are sent with."""
    return next(cookie.value for cookie in browser.cookie_jar if cookie.key == "_xsrf")


def server_of(name: str) -> psutil.Process:
    """Return the account's single-user server."""
    found = [one for one in processes_of(name) if "jupyterhub-singleuser" in words_of(one)]
    assert found, [words_of(one) for one in processes_of(name)]
    parents = {one.ppid() for one in found}
    return next(one for one in found if one.pid not in parents)


def words_of(process: psutil.Process) -> str:
    """Return a process's command line; nothing when it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def processes_of(name: str) -> list[psutil.Process]:
    """Return the account's processes."""
    uid = pwd.getpwnam(name).pw_uid
    found = []
    for process in psutil.process_iter():
        try:
            if uid in process.uids():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def used(hub: UpHouse) -> float:
    """Return the seconds of CPU that the hub's own processes have used."""
    return sum(sum(hub.child(words).cpu_times()[:2]) for words in ("spawner.hub", "gridcloud.service"))


async def log_in(browser: aiohttp.ClientSession, name: str, password: str = PASSWORD) -> None:
    """Log in as a person does."""
    async with browser.get("/hub/login", headers=NAVIGATE) as answer:
        assert answer.status == 200
    data = {"username": name, "password": password, "_xsrf": xsrf_of(browser)}
    async with browser.post("/hub/login", data=data, headers=NAVIGATE, allow_redirects=False) as answer:
        assert answer.status == 302, await answer.text()
