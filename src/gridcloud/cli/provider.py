"""``gridcloud provider …``."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gridcloud.cli.completion import drivers, providers
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.cli.steps import waiting
from gridcloud.errors import InvalidRequest, Unreachable
from gridcloud.instances.matching import describe
from gridcloud.instances.model import Found
from gridcloud.service.configuration_documents import Edit, Verb

__all__ = ["app", "read_settings", "write_provider"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Where instances come from.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The provider's name.", autocompletion=providers)]


@app.command("list")
@framed
async def list_(
    frame: Frame, images: Annotated[bool, typer.Option("--images", help="The images of each, too.")] = False
) -> None:
    """List the configured providers and what is wrong with any of them."""
    async with await frame.connect() as client:
        with waiting(frame, "Asking"):
            found = await client.providers(images=images)
    if frame.json:
        frame.show({"providers": [provider.model_dump(mode="json") for provider in found]})
        return
    headings = ["NAME", "DRIVER", "LOCATION", "PER HOUR", "PROBLEM"]
    rows: list[tuple[object, ...]] = [
        (one.name, one.driver, one.location, one.price, one.problem) for one in found
    ]
    if images:
        headings.insert(4, "IMAGES")
        rows = [(*row[:4], " ".join(one.images), row[4]) for row, one in zip(rows, found, strict=True)]
    print_table(headings, rows)


@app.command("check")
@framed
async def check(
    frame: Frame,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="The provider's name; all when left out.", autocompletion=providers
        ),
    ] = None,
) -> int:
    """Try the access and images of a provider, or of all, starting nothing. A '?' stands before what could not be found
    out. Exits 1 where something is wrong."""
    async with await frame.connect() as client:
        with waiting(frame, f"Trying {name or 'every provider'}"):
            names = [one.name for one in await client.providers()] if name is None else [name]
            found = await asyncio.gather(*(client.check_provider(one) for one in names))
    checked = [(one, finding) for one, findings in zip(names, found, strict=True) for finding in findings]
    if frame.json:
        document = [{"provider": one, **finding.model_dump(mode="json")} for one, finding in checked]
        frame.show({"findings": document})
    else:
        for one, finding in checked:
            mark = "wrong" if not finding.ok else "ok   " if finding.known else "?    "
            whose = "" if name is not None or finding.subject == one else f"{one}, "
            print(plain(f"{mark}  {whose}{finding.subject}: {finding.message}"))
            if finding.remedy and not (finding.ok and finding.known):
                print(plain(f"       {finding.remedy}"))
    return 0 if all(finding.ok for _, finding in checked) else 1


@app.command("discover")
@framed
async def discover(frame: Frame, name: Name) -> None:
    """List the images, shapes with their prices, locations and networks that a provider has to choose from."""
    async with await frame.connect() as client:
        with waiting(frame, f"Asking {name}"):
            found = await client.discover_provider(name)
            currency = "" if frame.json else (await client.version()).currency
    if frame.json:
        frame.show(found)
        return
    for heading, things in (
        ("IMAGE", found.images),
        ("SHAPE", found.shapes),
        ("LOCATION", found.locations),
        ("NETWORK", found.networks),
    ):
        columns, rows = _discovered(heading, things, currency)
        if rows:
            print_table(columns, rows)
            print()


@app.command("add")
@framed
async def add(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    driver: Annotated[
        str,
        typer.Option(
            "--driver", help="Which driver serves it: local, container, ssh …", autocompletion=drivers
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE…]",
            help="The driver's settings. VALUE is YAML; a.b=c goes inside a; a key given twice makes a list.",
        ),
    ] = None,
) -> None:
    """Add a provider to the configuration file, once its settings are checked."""
    entry = {"driver": driver, **read_settings(settings or ())}
    await write_provider(frame, name, entry)
    if frame.json:
        frame.show({"name": name, **entry})
    else:
        console = error_console()
        console.print(f"Added {name}. Try it: gridcloud provider check {name}")


@app.command("remove")
@framed
async def remove(frame: Frame, name: Name) -> None:
    """Take a provider out of the configuration file. What it holds lives on until it ends."""
    try:
        async with await frame.connect(alone=True) as client:
            await client.remove_provider(name)
    except Unreachable:
        await _change_file(frame, Edit(verb=Verb.REMOVE, path=["providers", name]))
    if frame.json:
        frame.show({"removed": name})
    else:
        error_console().print(f"Removed {name}.")


@app.command("forget")
@framed
async def forget(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a provider that was removed.")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Also give up what may be left there; it is named.")
    ] = False,
) -> None:
    """Never again ask a provider that left the configuration. Refused while something may be left there."""
    async with await frame.connect() as client:
        with waiting(frame, f"Asking {name} what it holds"):
            done = await client.forget_provider(name, give_up=yes)
    if frame.json:
        frame.show(done)
        return
    error_console().print(f"Forgot {name}.")
    for one in done.given_up:
        error_console().print(plain(f"Given up: {one}."))


def _discovered(
    heading: str, things: Sequence[Found], currency: str
) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return headings and rows; details have a column where there are any."""
    more = "MORE" if any(one.detail for one in things) else ""
    if heading != "SHAPE":
        return (heading, "NAME", more), [
            (one.id, one.name if one.name != one.id else "", one.detail) for one in things
        ]
    rows: list[Sequence[object]] = [
        (
            (one.shape.name if one.shape else "") or one.id,  # as the provider's settings name it
            describe(one.shape) if one.shape else one.name,
            "?" if one.price is None else f"{one.price.normalize():f} {currency}",
            one.detail,
        )
        for one in things
    ]
    return (heading, "SIZE", "PER HOUR", more), rows


async def write_provider(frame: Frame, name: str, entry: dict[str, Any]) -> None:
    """Add a provider to the configuration file, by the service where one runs. Raises what adding it raises."""
    try:
        async with await frame.connect(alone=True) as client:
            await client.add_provider(name, entry)
    except Unreachable:
        from gridcloud.settings import provider_settings

        provider_settings(name, entry)
        await _change_file(frame, Edit(verb=Verb.ADD, path=["providers", name], value=entry))


async def _change_file(frame: Frame, edit: Edit) -> None:
    """Change the configuration where no service runs; one that cannot be reached is never gone round."""
    from gridcloud.service.configuration_desk import ConfigurationDesk

    if frame.is_remote:
        raise Unreachable("The service cannot be reached.", remedy="Check --url and GRIDCLOUD_URL.")
    await ConfigurationDesk(frame.config_path, frame.data_folder).edit([edit], by=getpass.getuser())


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that ``key=value`` words mean. Raises InvalidRequest."""
    import yaml

    found: dict[str, Any] = {}
    for word in words:
        key, has_value, text = word.partition("=")
        parts = key.split(".")
        if not has_value or not all(parts):
            raise InvalidRequest(
                f"{word!r} is no KEY=VALUE.", remedy="Write for example hosts=[a,b] or user=amy."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidRequest(f"{key}: {text!r} is no YAML: {error}") from None
        place = found
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InvalidRequest(f"{key}: {part} has a value of its own already.")
        last = parts[-1]
        if last in place:
            before = place[last] if isinstance(place[last], list) else [place[last]]
            value = [*before, *(value if isinstance(value, list) else [value])]
        place[last] = value
    return found
