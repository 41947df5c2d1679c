"""``gridcloud config …``. Works without a service, and with a configuration that is not valid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.config_changes import VERBS
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import count, plain
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings, NotFound

if TYPE_CHECKING:
    from gridcloud.settings import Settings

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The configuration file.")
for _name, _verb in VERBS.items():
    app.command(_name)(_verb)

_SECRET = re.compile(r"password|passwd|secret|token|credential|private_key", re.IGNORECASE)
_REFERENCE = re.compile(r"(file|env|keyring|agent):")
_HIDDEN = "(not shown)"


@app.command("show")
@framed
def show(frame: Frame) -> None:
    """Show the whole configuration as it counts: the file, the environment and the defaults. No secrets."""
    import json

    import yaml

    settings, problems = frame.settings_file().current()
    document = json.loads(settings.model_dump_json(exclude={"providers"}, fallback=str))
    document["providers"] = {
        name: {"problem": str(entry)}
        if isinstance(entry, GridcloudError)
        else json.loads(entry.model_dump_json(fallback=str))
        for name, entry in settings.providers.items()
    }
    document = _without_secrets(document)
    if frame.json:
        frame.show({**document, "problems": [problem.problem() for problem in problems]})
    else:
        print(plain(yaml.safe_dump(document, sort_keys=False, allow_unicode=True)), end="")


@app.command("check")
@framed
def check(
    frame: Frame,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Another file than the one in use.")
    ] = None,
) -> None:
    """Check a configuration file: every fault with its place, and every driver that cannot be loaded.

    The MultipleSpawner's files that it names, or the environment does, are checked with it; what of them is not needed
    here is told, key by key.
    """
    from gridcloud.profiles import Book
    from gridcloud.profiles.folders import folder_problems
    from gridcloud.settings import SettingsFile

    if file is not None and not file.exists():
        raise NotFound(f"There is no {file}.")
    source = SettingsFile(file.absolute(), required=True) if file is not None else frame.settings_file()
    book = Book(source)
    book.rosters.read_all(book.current()[0].courses)
    settings, problems = book.current()
    problems = [*problems, *_hook_faults(settings, source.path.parent)]
    if problems:
        raise InvalidSettings("\n".join(str(problem) for problem in problems))
    names, profiles = list(settings.providers), list(settings.profiles)
    login = _login_problem(settings)
    folders = folder_problems(settings)
    if frame.json:
        notes = [{"place": note.place, "key": note.key, "became": note.became} for note in book.notes]
        frame.show(
            {
                "file": str(source.path),
                "valid": True,
                "providers": names,
                "profiles": profiles,
                "notes": notes,
                "login": login.problem() if login else None,
                "folders": folders,
            }
        )
        return
    for note in book.notes:
        print(plain(f"{note.place}: {note.key}: {note.became}"))
    if profiles:
        print(f"{count(len(profiles), 'profile')}: {', '.join(profiles)}.")
    if login:
        print(plain(f"A hub that were started here would refuse to: {login}"))
    for problem in folders:
        print(plain(f"Sessions of a course would go without a folder of it: {problem}"))
    if not source.path.exists():
        print(f"There is no {source.path}; the defaults are valid.")
    else:
        print(f"{source.path} is valid; providers: {', '.join(names) or 'none'}.")


@app.command("path")
@framed
def path(frame: Frame) -> None:
    """Print where the configuration file lies."""
    if frame.json:
        frame.show({"path": str(frame.config_path), "exists": frame.config_path.exists()})
    else:
        print(frame.config_path)


@app.command("import")
@framed
async def import_(
    frame: Frame,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A YAML file of corc: its configuration, or a stack.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PROVIDER.KEY=VALUE",
            help="A setting that the file lacks, e.g. oci.allow_from=192.0.2.0/24.",
        ),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan", metavar="NAME=FILE", help="A plan that a stack's file names and does not hold."
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The stack's name; the file's when not given.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would become of each key.")
    ] = False,
) -> None:
    """Take over what the prototype was told: its providers into the configuration, or a stack of instances.

    Every key is told of: what it became, or why it is not needed. Nothing is written when one is not known.
    """
    from gridcloud.cli.stack import read_plans
    from gridcloud.settings.corc import is_corc
    from gridcloud.stacks.reading import read_definition, read_file

    document = read_file(file.expanduser())
    if is_corc(document):
        await _import_providers(frame, document, settings or (), dry_run)
        return
    if "orchestrator" in document:
        raise InvalidSettings(
            f"{file} is a plan: it says how one instance of a stack is made.",
            remedy=f"Give it with the stack: gridcloud config import STACK --plan {file.stem}={file}",
        )
    definition = read_definition(document, read_plans(plan))
    name = name or file.stem
    if dry_run:
        held = f"{count(len(definition.instances), 'instance')} and {count(len(definition.pools), 'pool')}"
        print(f"A stack {name} of {held}.")
        return
    async with await frame.connect() as client:
        stack = await client.define_stack(name, definition)
    if frame.json:
        frame.show(stack)
    else:
        print(f"Defined the stack {name}. Deploy it: gridcloud stack deploy {name}")


def _login_problem(settings: Settings) -> GridcloudError | None:
    """Return why people could not log in to a hub that is started here; its host may have what is missing here."""
    try:
        from gridcloud.spawner.login_ways import check_login
    except ImportError:  # no JupyterHub: it is another computer's configuration
        return None
    try:
        check_login(settings.hub)
    except GridcloudError as error:
        return error
    return None


def _hook_faults(settings: Settings, folder: Path) -> list[GridcloudError]:
    from gridcloud.hooks.running import load

    faults = []
    profiles = settings.profiles.values()
    for hook in (
        *settings.hub.before_start,
        *(hook for profile in profiles for hook in profile.before_start),
    ):
        try:
            load(hook, folder)
        except GridcloudError as error:
            faults.append(error)
    return faults


async def _import_providers(
    frame: Frame, document: dict[str, Any], words: Sequence[str], dry_run: bool
) -> None:
    from gridcloud.cli.provider import read_settings, write_provider
    from gridcloud.settings import provider_settings
    from gridcloud.settings.corc import import_corc

    imported = import_corc(document)
    for provider, changes in read_settings(words).items():
        if provider not in imported.providers or not isinstance(changes, dict):
            there = ", ".join(imported.providers) or "none"
            raise InvalidRequest(f"--set {provider}: the file has no such provider (it has: {there}).")
        imported.providers[provider] |= changes
    faults = []
    for provider, entry in imported.providers.items():
        try:
            provider_settings(provider, entry)
        except InvalidSettings as error:
            faults.append(f"{provider}: {error}")
    if not frame.json:
        for note in imported.notes:
            print(plain(f"{note.key}: {note.became}"))
    if faults:
        raise InvalidSettings(
            "\n".join(faults), remedy="Name what is missing: --set PROVIDER.KEY=VALUE. Nothing was written."
        )
    for provider, entry in {} if dry_run else imported.providers.items():
        await write_provider(frame, provider, entry)
    if frame.json:
        notes = [{"key": note.key, "became": note.became} for note in imported.notes]
        frame.show({"providers": imported.providers, "notes": notes, "written": not dry_run})
    elif not dry_run:
        names = ", ".join(imported.providers) or "no provider"
        print(f"Added {names}. Try it: gridcloud provider check")


def _without_secrets(document: Any, key: str = "") -> Any:
    if isinstance(document, dict):
        return {name: _without_secrets(value, str(name)) for name, value in document.items()}
    if isinstance(document, list):
        return [_without_secrets(value, key) for value in document]
    if isinstance(document, str):
        if document and _SECRET.search(key) and not _REFERENCE.match(document):
            return _HIDDEN
        return re.sub(r"(\w://[^/@:\s]*):[^/@\s]*@", rf"\1:{_HIDDEN}@", document)
    return document
