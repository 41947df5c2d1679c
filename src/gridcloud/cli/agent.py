"""``gridcloud agent …``: machines that dial out; inviting them, and being one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, print_table, until
from gridcloud.errors import Conflict, Forbidden, GridcloudError, InvalidRequest, Throttled, Transient

if TYPE_CHECKING:
    from gridcloud.agents.bootstrap import Bootstrap
    from gridcloud.agents.dialling import Way
    from gridcloud.agents.membership import Membership, MembershipFolder
    from gridcloud.agents.model import Caps, Terms
    from gridcloud.identity import Secret
    from gridcloud.service.agent_documents import Machine

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Machines that dial out and serve as instances, from behind whatever is in between.",
)

TOKEN = "GRIDCLOUD_AGENT_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable that a token may come in."""

PROXY_PASSWORD = "GRIDCLOUD_PROXY_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password of the user that ``--proxy`` names."""

FORSAKEN = 60.0
"""Seconds after which an instance ends itself when its service says that it knows it no longer."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The machine's name.")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="CPU cores that are used at most.")]
Memory = Annotated[str, typer.Option("--memory", help="Memory that is used at most, e.g. 8GiB.")]
Gpus = Annotated[int | None, typer.Option("--gpus", help="GPUs that are used at most.")]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="What it is; may be given again.")
]

Service = Annotated[str, typer.Argument(metavar="URL", help="The service: https://…")]
TokenFile = Annotated[
    str, typer.Option("--token-file", metavar="FILE", help="File with the token; -: standard input.")
]
TokenText = Annotated[
    str, typer.Option("--token", metavar="TOKEN", help="The token itself: others on this machine see it.")
]
Users = Annotated[
    list[str] | None,
    typer.Option("--users", metavar="NAME", help="Who may use it, * for anything; may be given again."),
]
When = Annotated[
    str | None, typer.Option("--hours", help="When it may be used, e.g. 'Mon-Fri 18:00-08:00, Sat-Sun'.")
]
ContainersOnly = Annotated[
    bool | None,
    typer.Option("--containers-only/--no-containers-only", help="Run everything in containers."),
]
Image = Annotated[str, typer.Option("--image", help="Image of containers where none is asked for.")]
Share = Annotated[
    bool | None,
    typer.Option("--share/--no-share", help="Several people at once: they can read each other's files."),
]
AsRoot = Annotated[bool, typer.Option("--as-root", help="Run as root: whoever uses it is root here.")]
Authorities = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Authorities to believe, in place of the system's."),
]
Proxy = Annotated[str, typer.Option("--proxy", metavar="URL", help="HTTP proxy, in place of HTTPS_PROXY's.")]
StateFolder = Annotated[
    Path | None, typer.Option("--state", metavar="FOLDER", help="Private folder to keep what it needs in.")
]


@app.command("invite")
@framed
async def invite(
    frame: Frame,
    name: Name,
    time: Annotated[str, typer.Option("--time", help="How long the token is good, e.g. 2h.")] = "1d",
    cpus: Cpus = None,
    memory: Memory = "",
    gpus: Gpus = None,
    label: Label = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="CIDR", help="Network that it may join from; may be given again."),
    ] = None,
) -> None:
    """Invite a machine: print a token, this once, that one machine can join with."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(time)
    except ValueError as error:
        raise InvalidRequest(f"--time: {error}.") from None
    caps, labels = _caps(cpus, memory, gpus), _labels(label)
    async with await frame.connect() as client:
        made = await client.agents.invite(
            name,
            time=seconds,
            caps=caps,
            labels={key: value or "" for key, value in labels.items()},
            addresses=network or (),
        )
    if frame.json:
        frame.show(made)
        return
    error_console().print(f"The token for {name}, shown this once; it expires {until(made.machine.expires)}.")
    error_console().print("There, with the token in a file: gridcloud agent join https://… --token-file FILE")
    print(made.token)
    if not frame.is_remote and not _has_door(frame):
        error_console().print(
            "No machine can join yet: the service has no HTTPS door. Set service.host, certificate and key, "
            "and start it anew."
        )


@app.command("join")
@framed
async def join(
    frame: Frame,
    service: Service,
    token_file: TokenFile = "",
    token: TokenText = "",
    users: Users = None,
    hours: When = None,
    cpus: Cpus = None,
    memory: Memory = "",
    gpus: Gpus = None,
    containers_only: ContainersOnly = None,
    image: Image = "",
    share: Share = None,
    label: Label = None,
    as_root: AsRoot = False,
    ca: Authorities = None,
    proxy: Proxy = "",
    state: StateFolder = None,
) -> None:
    """Join with a token and serve, in the foreground; joined already, go on serving. Ctrl-C ends it."""
    from gridcloud.agents.dialling import Way
    from gridcloud.agents.membership import MembershipFolder, check_url

    if os.geteuid() == 0 and not as_root:
        raise Forbidden(
            "This is root's account: whoever uses this machine would be root here.",
            remedy="Run it as an ordinary user, or say --as-root.",
        )
    url = check_url(service)
    folder = MembershipFolder(state.absolute() if state else _state_folder(frame, url))
    way = Way(url, ca=ca, proxy=proxy, password=_proxy_password(proxy))
    said: dict[str, object] = {"users": users, "hours": hours, "image": image or None, "share": share}
    said |= _caps(cpus, memory, gpus).model_dump()
    said |= {"containers_only": containers_only, "labels": _labels(label) or None}
    said = {name: value for name, value in said.items() if value is not None}
    given = _token(token_file, token)
    with _alone(folder.path):
        known = folder.read()
        if known is None:
            if given is None:
                raise InvalidRequest(
                    f"This machine has not joined {url}: it needs a token.",
                    remedy="Give --token-file FILE; an administrator makes one: gridcloud agent invite NAME",
                )
            known = await _join_patiently(way, given, folder, _terms(None, said), Throttled)
            error_console().print(f"Joined {url} as {known.name}.")
        else:
            known = _go_on(folder, known, url, given, said)
        await _serve(known, folder, way)


@app.command("bootstrap")
@framed
async def bootstrap(
    frame: Frame,
    service: Service,
    token_file: TokenFile = "",
    home: Annotated[
        str, typer.Option("--home", metavar="FOLDER", help="Where the owner's own files lie.")
    ] = "",
    stay: Annotated[
        bool,
        typer.Option("--stay", help="When it is only stopped, go on when it is started again: on a machine."),
    ] = False,
    as_root: AsRoot = False,
    ca: Authorities = None,
    proxy: Proxy = "",
    state: StateFolder = None,
) -> None:
    """Be one instance, all that is here, until its end: what a provider has a batch job, a pod or a machine run."""
    from gridcloud.agents.bootstrap import Bootstrap
    from gridcloud.agents.dialling import Way
    from gridcloud.agents.membership import MembershipFolder, check_url
    from gridcloud.agents.model import Terms

    if os.geteuid() == 0 and not as_root:
        raise Forbidden("This is root's account.", remedy="Run it as an ordinary user, or say --as-root.")
    url = check_url(service)
    folder = MembershipFolder(state.absolute() if state else _state_folder(frame, url))
    way = Way(url, ca=ca, proxy=proxy, password=_proxy_password(proxy))
    os.umask(0o077)
    with _alone(folder.path):
        known = folder.read()
        if known is None:
            given = _token(token_file, "")
            if given is None:
                raise InvalidRequest("An instance needs its token.", remedy="Give --token-file FILE.")
            # A service that does not answer is waited for: whoever started us ends us when it is too long.
            known = await _join_patiently(way, given, folder, Terms(), Transient)
        if token_file not in ("", "-"):  # it is worth nothing any more, and nobody else's to read
            Path(token_file).unlink(missing_ok=True)
        ended = False
        try:
            await _be(Bootstrap(known, folder.path, home), known, folder, way)
            ended = True
        finally:
            if ended or not stay:
                folder.remove()


async def _be(here: Bootstrap, known: Membership, folder: MembershipFolder, way: Way) -> None:
    """Be an instance until its end."""
    import asyncio

    from gridcloud.agents.dialling import Dialler

    tell = error_console().print
    dialler = Dialler(
        way,
        known,
        await folder.key(),
        here,
        tell=lambda text: tell(text, highlight=False),
        forsaken=FORSAKEN,
        keep=folder.write,
    )
    try:
        await here.start()
        working = [asyncio.ensure_future(work) for work in (dialler.run(), here.wait_ended())]
        try:
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in working:
                work.cancel()
            await asyncio.gather(*working, return_exceptions=True)
    finally:
        await here.close()


@app.command("pack")
@framed
async def pack(
    frame: Frame,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it, e.g. gridcloud.pyz.")],
) -> None:
    """Write gridcloud as one file, to carry to machines that are to join."""
    from gridcloud.agents.packing import needed
    from gridcloud.agents.packing import pack as pack_now

    pack_now(target)
    packages = needed()
    if frame.json:
        frame.show({"file": str(target), "needs": packages})
        return
    error_console().print(f"It needs Python 3.11 with: {' '.join(packages)}", highlight=False)
    error_console().print(f"There: python3 {target.name} agent join URL --token-file FILE", highlight=False)


@app.command("list")
@framed
async def list_(
    frame: Frame, all: Annotated[bool, typer.Option("--all", "-a", help="Removed ones too.")] = False
) -> None:
    """List the machines that were invited and have joined."""
    async with await frame.connect() as client:
        found = await client.agents.all(all=all)
    if frame.json:
        frame.show({"machines": [machine.model_dump(mode="json") for machine in found]})
        return
    rows = [
        (
            one.name,
            _state(one),
            _capacity(one),
            str(len(one.report.running)) if one.report else "",
            f"{one.report.load:.1f}" if one.report else "",
            ago(one.last_seen),
            " ".join(f"{key}={value}" for key, value in one.labels.items()),
            one.report.terms if one.report else "",
        )
        for one in found
    ]
    print_table(("NAME", "STATE", "FREE", "RUNNING", "LOAD", "SEEN", "LABELS", "TERMS"), rows)


@app.command("label")
@framed
async def label_(
    frame: Frame,
    name: Name,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY= takes one away.")],
) -> None:
    """Set labels of a machine, by which providers choose machines."""
    async with await frame.connect() as client:
        machine = await client.agents.label(name, _labels(labels))
    _show(frame, machine, f"{name}: {' '.join(f'{key}={value}' for key, value in machine.labels.items())}")


@app.command("drain")
@framed
async def drain(
    frame: Frame,
    name: Name,
    resume: Annotated[bool, typer.Option("--resume", help="Give it work again.")] = False,
) -> None:
    """Give a machine nothing new; what it has goes on."""
    async with await frame.connect() as client:
        machine = await client.agents.drain(name, draining=not resume)
    _show(frame, machine, f"{name} is {machine.state}.")


@app.command("remove")
@framed
async def remove(frame: Frame, name: Name) -> None:
    """Have a machine end everything and leave: now, or when it connects again."""
    async with await frame.connect() as client:
        await client.agents.remove(name)
        machine = await client.agents.get(name)
    _show(frame, machine, f"{name} is removed.")


# Being a machine --------------------------------------------------------------------------------------------------


async def _serve(membership: Membership, folder: MembershipFolder, way: Way) -> None:
    from gridcloud.agents.dialling import Dialler
    from gridcloud.agents.hosting import Host

    os.umask(0o077)
    host = Host(membership, folder.path / "host")
    await host.start()
    try:
        tell = error_console().print
        await Dialler(
            way,
            membership,
            await folder.key(),
            host,
            tell=lambda text: tell(text, highlight=False),
            keep=folder.write,
        ).run()
    finally:
        await host.close()
    folder.remove()


async def _join_patiently(
    way: Way, token: Secret, folder: MembershipFolder, terms: Terms, waits: type[Transient]
) -> Membership:
    """Join; what is one of ``waits`` is tried again, told once."""
    import asyncio
    import random

    from gridcloud.agents.dialling import join as join_now

    told = ""
    while True:
        try:
            return await join_now(way, token, folder, terms)
        except waits as error:
            if str(error) != told:
                told = str(error)
                error_console().print(f"Not joined {way.url}: {told} It is tried again.", highlight=False)
            await asyncio.sleep(random.uniform(1, 5))  # noqa: S311 - no secret


def _state_folder(frame: Frame, url: str) -> Path:
    import hashlib

    return frame.data_folder / "joined" / hashlib.sha256(url.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone. Raises Conflict."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0, mode=0o600):
            yield
    except Timeout:
        raise Conflict(
            f"Another process serves this machine from {folder}.", remedy="End it first, or give --state."
        ) from None


def _go_on(
    folder: MembershipFolder,
    known: Membership,
    url: str,
    given: Secret | None,
    said: dict[str, object],
) -> Membership:
    """Return the membership with what was said now; what was not said holds as before."""
    from gridcloud.agents.invitations import read_token

    if given is not None and read_token(given.reveal()).id != known.invitation:
        raise Conflict(
            f"This machine has joined {known.url} as {known.name} already.",
            remedy=f"Leave the token out to go on; or have it removed there, or remove {folder.path}.",
        )
    changed = known.model_copy(update={"url": url, "terms": _terms(known.terms, said)})
    if changed != known:
        folder.write(changed)
    return changed


def _token(file: str, text: str) -> Secret | None:
    from gridcloud.identity import Secret, resolve

    if text:
        error_console().print(
            f"Others on this machine can see a token on the command line: better --token-file or {TOKEN}."
        )
        return Secret(text)
    if file == "-":
        return Secret(sys.stdin.readline().strip())
    if file:
        return Secret(resolve(f"file:{Path(file).absolute()}").reveal().strip())
    found = os.environ.pop(TOKEN, "")
    return Secret(found) if found else None


def _proxy_password(proxy: str) -> Secret | None:
    """Return the password for a proxy out of the environment, where it is not left for what runs here."""
    from gridcloud.identity import Secret

    if "@" in proxy and ":" in proxy.partition("://")[2].rpartition("@")[0]:
        error_console().print(
            f"Others on this machine can see a password on the command line: better --proxy with a user alone and "
            f"{PROXY_PASSWORD}, or HTTPS_PROXY.",
            highlight=False,
        )
    found = os.environ.pop(PROXY_PASSWORD, "")
    return Secret(found) if found else None


def _caps(cpus: float | None, memory: str, gpus: int | None) -> Caps:
    from gridcloud.agents.model import Caps

    try:
        return Caps.model_validate({"cpus": cpus, "memory": memory or None, "gpus": gpus})
    except ValueError as error:
        raise InvalidRequest(f"These limits cannot be: {_first(error)}.") from None


def _terms(before: Terms | None, said: dict[str, object]) -> Terms:
    """Return terms: those from before, save what was said now."""
    from gridcloud.agents.model import Terms

    try:
        terms = Terms.model_validate((before.model_dump() if before is not None else {}) | said)
    except ValueError as error:
        raise InvalidRequest(f"These terms cannot be: {_first(error)}.") from None
    if terms.containers_only and not terms.image:
        raise InvalidRequest("Containers need an image.", remedy="Say --image IMAGE.")
    return terms


def _labels(given: list[str] | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for one in given or ():
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"{one!r:.100} is no label.", remedy="Write KEY=VALUE.")
        found[key] = value or None
    return found


def _first(error: ValueError) -> str:
    from pydantic import ValidationError

    return (
        str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        if isinstance(error, ValidationError)
        else str(error)
    )


def _state(machine: Machine) -> str:
    if machine.connected:
        return "connected" if machine.state == "joined" else str(machine.state)
    return f"{machine.state}, away" if machine.state in ("joined", "draining") else str(machine.state)


def _has_door(frame: Frame) -> bool:
    with contextlib.suppress(GridcloudError):  # a file that went bad meanwhile is told of elsewhere
        return bool(frame.settings_file().current()[0].service.host)
    return True


def _capacity(machine: Machine) -> str:
    from gridcloud.instances.matching import count_cpus
    from gridcloud.settings import format_size

    if machine.report is None:
        return ""
    free = machine.report.free
    words = [count_cpus(free.cpus or 0), format_size(free.memory or 0)]
    words += [f"{free.gpus} {machine.report.gpu_model or 'GPUs'}"] if free.gpus else []
    return ", ".join(words)


def _show(frame: Frame, machine: Machine, words: str) -> None:
    if frame.json:
        frame.show(machine)
    else:
        error_console().print(words, highlight=False)
