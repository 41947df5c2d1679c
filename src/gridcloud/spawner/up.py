"""Start the service, the proxy and the hub, keep them alive, and end them in order."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from gridcloud.client import connect_async
from gridcloud.connections.forkserver import Program
from gridcloud.errors import Conflict, GridcloudError, Unreachable
from gridcloud.service.process import lock_of
from gridcloud.settings import HubSettings, SettingsFile, socket_path
from gridcloud.spawner.children import Child, Report
from gridcloud.spawner.hub_files import HubFiles, Ports
from gridcloud.spawner.links import issue_link
from gridcloud.spawner.login_ways import check_login
from gridcloud.spawner.proxy_program import install_proxy
from gridcloud.store import Holder, OwnerLock

__all__ = ["Running", "new_link", "run_up", "running"]

SERVER = Program(
    "jupyterhub-singleuser",
    "jupyterhub.singleuser",
    "main",
    (
        "jupyterhub.singleuser.extension",
        "jupyterlab.labapp",
        "jupyter_lsp.serverextension",
        "jupyter_server_terminals",
        "notebook_shim.nbserver",
        "jupyterlab_server",
        "ipykernel.kernelspec",
        "nbconvert.exporters",
        "terminado",
        "jupyter_server.services.kernels.handlers",
        "jupyter_server.services.contents.handlers",
        "jupyter_server.services.contents.largefilemanager",
        *(name for name in ("jupyter_server_proxy",) if importlib.util.find_spec(name)),
    ),
)
"""A session's program, imported beforehand with what it would import while it starts."""

BLOCKED = ("rfc3987_syntax",)
"""It costs a second of CPU at its import, and checks only IRIs in the schemas of events, which there are none of."""

ENDING = 60.0
"""Seconds that sessions have to end when everything ends."""

LEAVING = 15.0
"""Seconds to wait for whoever uses the data folder: a command, or what a killed ``gridcloud up`` has left."""


@dataclass
class Running:
    """What is up: ``url`` of the hub's pages, a one-time ``link`` to log in (empty with another authenticator)."""

    url: str
    link: str
    api_url: str
    api_token: str = field(repr=False)
    """Token of the hub's REST API, for gridcloud's own commands."""
    service: Child = field(repr=False)
    proxy: Child = field(repr=False)
    hub: Child = field(repr=False)


async def run_up(settings_file: SettingsFile, data: Path, report: Report, *, keep: bool = False) -> None:
    """Run everything until SIGINT or SIGTERM, then stop sessions and all; a second signal leaves at once.

    ``report`` gets each line worth a terminal. ``keep``: sessions run on when it ends. Raises PortTaken, Conflict when
    it runs already, GridcloudError. SIGUSR1 has service and hub begin anew, with the code that is installed by then;
    the proxy stays, with all connections that lead through it.
    """
    up, asked, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_until(settings_file, data, report, up, asked, renewed, keep))

    def obey() -> None:
        if asked.is_set() or not up.is_set():
            work.cancel()
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, obey)
    loop.add_signal_handler(signal.SIGUSR1, renewed.set)
    try:
        await work
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        if not asked.is_set():
            raise
        report("Left at once. Sessions that still run are taken up by the next 'gridcloud up'.")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            loop.remove_signal_handler(number)


async def _until(
    settings_file: SettingsFile,
    data: Path,
    report: Report,
    up: asyncio.Event,
    asked: asyncio.Event,
    renewed: asyncio.Event,
    keep: bool,
) -> None:
    async with running(settings_file, data, report, keep=keep) as hub:
        up.set()
        report(f"gridcloud is up: {hub.url}")
        if hub.link:
            report(f"Log in (this link works once, within the hour): {hub.link}")
        report("Press Ctrl-C to stop it" + ("; its sessions run on." if keep else " with all its sessions."))
        renewing = asyncio.create_task(_renew(hub, report, renewed))
        try:
            await asked.wait()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        report("Stopping" + ("." if keep else "; press Ctrl-C again to leave the sessions running."))


async def _renew(running: Running, report: Report, renewed: asyncio.Event) -> None:
    """Have service and hub begin anew whenever that is asked for: what the hub asks, the new service knows."""
    while True:
        await renewed.wait()
        renewed.clear()
        report("Beginning anew with what is installed now; the proxy stays.")
        for child in (running.service, running.hub):
            try:
                await child.renew()
            except TimeoutError:
                report(f"The {child.name} is not back yet; it goes on being started.")


@contextlib.asynccontextmanager
async def running(
    settings_file: SettingsFile, data: Path, report: Report, *, keep: bool = False
) -> AsyncIterator[Running]:
    """Have service, proxy and hub up while the context is open; at its end, end all sessions and them.

    Cancelled while it ends, or told to ``keep`` them, it leaves sessions running. Raises PortTaken, Conflict,
    InvalidSettings, GridcloudError.
    """
    settings, problems = settings_file.current()
    for problem in problems:
        report(f"Warning: {problem}")
    check_login(settings.hub)
    files = HubFiles(data)
    logs = data / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    proxy_words = await install_proxy(report=report)
    async with _alone(data, files, report), _Ending(report) as ending:
        ports = files.choose_ports(settings.hub.bind, settings.hub.port)
        url = _url(settings.hub, ports)
        service = await ending.take(_service(settings_file, data, settings.hub, logs, report))
        proxy, hub = await asyncio.gather(
            ending.take(_proxy(proxy_words, settings.hub, ports, files, logs, report)),
            ending.take(_hub(settings_file, data, settings.hub, ports, logs, report)),
        )
        link = "" if settings.hub.authenticator else issue_link(files, url)
        api = f"http://127.0.0.1:{ports.hub}{settings.hub.base_url}hub/api"
        if not keep:
            ending.sessions_of = data
            ending.others_at = api, files.secret("api-token")
        yield Running(url, link, api, files.secret("api-token"), service, proxy, hub)


def new_link(settings_file: SettingsFile, data: Path) -> str:
    """Return a new link to log in at the hub that runs; the one before is void.

    Raises Unreachable when none runs, GridcloudError when the hub has another way to log in.
    """
    settings = settings_file.current()[0]
    if settings.hub.authenticator:
        raise GridcloudError(
            f"People log in through {settings.hub.authenticator} here, not by a link.",
            remedy="Remove hub.authenticator from the configuration for links.",
        )
    holder = lock_of(data).holder()
    if holder is None:
        raise Unreachable(f"No hub runs for {data}.", remedy="Start one: gridcloud up")
    files = HubFiles(data)
    return issue_link(files, _url(settings.hub, files.ports()))


class _Ending:
    """Ends what was taken: sessions before all, for whom the hub goes first."""

    def __init__(self, report: Report) -> None:
        self.sessions_of: Path | None = None
        self.others_at: tuple[str, str] | None = None
        """The hub's REST API and a token for it."""
        self._report = report
        self._children: list[Child] = []

    async def take(self, child: Child) -> Child:
        """Start a child that ends with us."""
        self._children.append(child)
        await child.start()
        return child

    async def __aenter__(self) -> _Ending:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self.others_at is not None:
                await _end_others(*self.others_at, self._report)
            for child in self._children:
                if child.name == "hub":
                    await child.stop()  # or it would start what we stop
            if self.sessions_of is not None:
                await _end_sessions(self.sessions_of, self._report)
            for child in reversed(self._children):
                await child.stop()
        except BaseException:
            for child in self._children:
                child.kill()
            await asyncio.gather(*(child.stop() for child in self._children), return_exceptions=True)
            raise


async def _end_others(api: str, token: str, report: Report) -> None:
    """Have the hub end the sessions that other spawners started."""
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ENDING), headers={"Authorization": f"token {token}"}
            ) as client,
            client.delete(f"{api}/gridcloud/others") as answer,
        ):
            answer.raise_for_status()
            told = await answer.json()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        report(f"Sessions of other spawners could not be stopped: {str(error) or type(error).__name__}")
        return
    if count := told["ended"]:
        report(f"{count} session{'s' if count > 1 else ''} of other spawners stopped.")
    if told["left"]:
        report(f"Sessions of other spawners that did not end: {', '.join(told['left'])}; see the hub's log.")


async def _end_sessions(data: Path, report: Report) -> None:
    try:
        async with asyncio.timeout(ENDING):
            async with await connect_async(data=data, alone=True) as client:
                sessions = await client.sessions(here=True)  # those of other hubs go on
                for session in sessions:
                    await client.stop_session(session.id)
                for session in sessions:
                    async for _ in client.session_events(session.id, follow=True):
                        pass
                if sessions:
                    report(f"{len(sessions)} session{'s' if len(sessions) > 1 else ''} stopped.")
    except TimeoutError:
        report(f"Some sessions did not end within {ENDING:g} s; the next 'gridcloud up' goes on ending them.")
    except GridcloudError as error:
        report(f"Sessions could not be stopped: {error}")


@contextlib.asynccontextmanager
async def _alone(data: Path, files: HubFiles, report: Report) -> AsyncIterator[None]:
    """Be the only one that is up for a data folder while the context is open. Raises Conflict.

    Where the one before was killed, its service may need a while to end: that is waited for.
    """
    with OwnerLock(files.folder / "up") as ours:
        if not ours.try_acquire():
            raise _conflict(data, ours.holder())
        service, told = lock_of(data), False
        deadline = asyncio.get_running_loop().time() + LEAVING
        while not service.try_acquire(str(socket_path(data))):
            if asyncio.get_running_loop().time() > deadline:
                raise _conflict(data, service.holder())
            if not told:
                told = True
                report(f"Another process of gridcloud uses {data}; waiting for it to end.")
            await asyncio.sleep(0.1)
        service.release()
        yield


def _conflict(data: Path, holder: Holder | None) -> Conflict:
    return Conflict(
        f"gridcloud runs already for {data} (process {holder.pid if holder else '?'}).",
        remedy="'gridcloud up --link' prints a new link to log in.",
    )


def _service(settings_file: SettingsFile, data: Path, hub: HubSettings, logs: Path, report: Report) -> Child:
    words = [sys.executable, "-m", "gridcloud.service", "--config", str(settings_file.path)]
    words += ["--data", str(data), "--program", str(SERVER)]
    for module in BLOCKED:
        words += ["--block", module]
    path = socket_path(data)

    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    # Sessions on this computer find the programs that lie beside ours.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {"PATH": programs}
    return Child(
        "service",
        words,
        log=logs / "service.log",
        report=report,
        ready=ready,
        environment=environment,
        patience=hub.starting,
        grace=30,
    )


def _proxy(
    words: list[str], hub: HubSettings, ports: Ports, files: HubFiles, logs: Path, report: Report
) -> Child:
    words = [
        *words,
        *("--ip", hub.bind, "--port", str(ports.public)),
        *("--api-ip", "127.0.0.1", "--api-port", str(ports.proxy_api)),
        *("--error-target", f"http://127.0.0.1:{ports.hub}{hub.base_url}hub/error"),
        *("--log-level", "warn"),
    ]
    secret = {"CONFIGPROXY_AUTH_TOKEN": files.secret("proxy-token")}

    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", ports.proxy_api)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    async def again() -> None:
        """Have the hub tell the new proxy its routes."""
        url = f"http://127.0.0.1:{ports.hub}{hub.base_url}hub/api/proxy"
        headers = {"Authorization": f"token {files.secret('api-token')}"}
        try:
            async with aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=30), headers=headers
            ) as client:
                await (await client.post(url)).read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            report(f"The hub could not tell the proxy its routes: {error}")  # it does so when it starts

    return Child(
        "proxy",
        words,
        log=logs / "proxy.log",
        report=report,
        ready=ready,
        again=again,
        environment=secret,
        patience=hub.starting,
        grace=3,
    )


def _hub(
    settings_file: SettingsFile, data: Path, hub: HubSettings, ports: Ports, logs: Path, report: Report
) -> Child:
    host = "127.0.0.1" if hub.bind in ("", "0.0.0.0", "::", "127.0.0.1") else hub.bind  # noqa: S104 - compared
    host = f"[{host}]" if ":" in host else host
    environment = {"GRIDCLOUD_CONFIG": str(settings_file.path), "GRIDCLOUD_DATA": str(data)}
    doors = (f"127.0.0.1:{ports.hub}", f"{host}:{ports.public}")

    async def ready() -> bool:
        """Tell whether it answers, and answers through the proxy."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as client:
            for door in doors:
                try:
                    url = f"http://{door}{hub.base_url}hub/health"
                    async with client.get(url, allow_redirects=False) as answer:
                        if answer.status != 200:
                            return False
                except (aiohttp.ClientError, OSError, TimeoutError):
                    return False
        return True

    words = [sys.executable, "-m", "gridcloud.spawner.hub"]
    return Child(
        "hub",
        words,
        log=logs / "hub.log",
        report=report,
        ready=ready,
        environment=environment,
        patience=hub.starting,
        grace=10,
    )


def _url(hub: HubSettings, ports: Ports) -> str:
    """Return the URL that people type."""
    if hub.public_url:
        return hub.public_url.rstrip("/") + "/"
    host = "127.0.0.1" if hub.bind in ("0.0.0.0", "::") else hub.bind  # noqa: S104 - compared
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{ports.public}{hub.base_url}"
