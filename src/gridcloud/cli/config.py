"""``gridcloud config …``. Works without a service, and with a configuration that is not valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain
from gridcloud.errors import GridcloudError, InvalidSettings, NotFound

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The configuration file.")

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
    """Check a configuration file: every fault with its place, and every driver that cannot be loaded."""
    from gridcloud.settings import SettingsFile

    if file is not None and not file.exists():
        raise NotFound(f"There is no {file}.")
    source = SettingsFile(file.absolute(), required=True) if file is not None else frame.settings_file()
    settings, problems = source.current()
    if problems:
        raise InvalidSettings("\n".join(str(problem) for problem in problems))
    names = list(settings.providers)
    if frame.json:
        frame.show({"file": str(source.path), "valid": True, "providers": names})
    elif not source.path.exists():
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
