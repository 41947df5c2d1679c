"""Write docs/reference from the code, or say with `--check` which page is not as the code is."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gridcloud import settings

__all__ = ["main"]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
INDEX = """# Reference

The pages of this folder are written by `make reference` from the code, and a test compares them. Change the docstring
or the help text in the code, not the page.

"""
HEADER = "<!-- Written by `make reference` from {source}. -->\n\n"


def main(arguments: list[str] | None = None) -> int:
    """Write every page whose code is there, or compare; return how many pages differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page differs")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, (source, write) in PAGES.items():
        if find_spec(source) is None:
            continue
        text = HEADER.format(source=f"`{source}`") + write()
        path = FOLDER / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if text == old:
            continue
        if not check:
            path.write_text(text, encoding="utf-8")
            continue
        stale += 1
        sys.stdout.writelines(
            difflib.unified_diff(
                old.splitlines(True), text.splitlines(True), f"docs/reference/{name}", "the code"
            )
        )
    if stale:
        print("\nThe reference is not as the code is: run `make reference`.")
    return stale


def index_page() -> str:
    """Return the list of the pages."""
    lines = [
        f"- [{(FOLDER / name).read_text(encoding='utf-8').partition('# ')[2].partition(chr(10))[0]}]({name})"
        for name in PAGES
        if name != "README.md" and (FOLDER / name).exists()
    ]
    return INDEX + "\n".join(lines) + "\n"


def errors_page() -> str:
    """Return the tree of errors, and what each becomes outside the program."""
    from gridcloud import errors

    tree = inspect.cleandoc(errors.__doc__ or "")
    rows = [
        f"| `{name}` | {error.exit_code} | {error.status} | {_first_line(error)} |"
        for name in errors.__all__
        if inspect.isclass(error := getattr(errors, name)) and issubclass(error, errors.GridcloudError)
    ]
    table = "| error | exit code | HTTP status | when |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"# Errors\n\n{_fence_indented(tree.replace('``', '`'))}\n\n{table}\n"


def states_page() -> str:
    """Return the states of an instance, how they follow each other, and why one may end."""
    from gridcloud.instances import lifecycle, model

    parts = [
        "# The states of an instance",
        f"```mermaid\n{lifecycle.diagram().rstrip()}\n```",
        "| state | |\n|---|---|\n" + _member_rows(model.State),
        "| event | |\n|---|---|\n" + _member_rows(lifecycle.Event),
        "Why an instance ended is kept beside its state: "
        + ", ".join(f"`{reason}`" for reason in model.Reason if reason)
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def configuration_page() -> str:
    """Return every key of the configuration file, those within a driver's keys and of configurers included."""
    parts = ["# The configuration file", _plain(settings), settings.reference().rstrip()]
    for point in _drivers("gridcloud.instances"):
        parts += _inner_sections(
            f"`driver: {point.name}`", point.load().Settings, {settings.ProviderSettings}, 3
        )
    parts.append(
        "## `configure:`\n\nAn entry names its configurer as `use:`; the rest is what that one takes."
    )
    for point in _drivers("gridcloud.configurers"):
        parts += _sections(f"`use: {point.name}`", point.load().Settings, set(), 3)
    return "\n\n".join(part for part in parts if part) + "\n"


def command_line_page() -> str:
    """Return every verb with its arguments and options."""
    from gridcloud import cli

    command = typer.main.get_command(cli.app)
    context = command.context_class(command, info_name="gridcloud")
    return "# The command line\n\n" + "\n\n".join(_commands(command, context, "gridcloud")) + "\n"


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "command-line.md": ("gridcloud.cli", command_line_page),
    "configuration.md": ("gridcloud.settings", configuration_page),
    "errors.md": ("gridcloud.errors", errors_page),
    "states.md": ("gridcloud.instances.lifecycle", states_page),
    "README.md": ("gridcloud", index_page),
}

WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    Path: "path",
    Any: "anything",
}


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _first_line(thing: Any) -> str:
    return _line(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0])


def _fence_indented(text: str) -> str:
    """Put the indented parts of a docstring into fences, so that every renderer keeps their lines."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if indented != inside and (line or not inside):
            lines.append("```text" if indented else "```")
            inside = indented
        lines.append(line.removeprefix("    ") if inside else line)
    if inside:
        lines.append("```")
    return "\n".join(lines).replace("\n\n```\n", "\n```\n\n")


def _plain(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").replace("``", "`")


def _drivers(group: str) -> list[EntryPoint]:
    """Return our drivers of a kind by name, whether or not somebody else's are installed as well."""
    found = [point for point in entry_points(group=group) if point.module.startswith("gridcloud.drivers.")]
    return sorted(
        (point for point in found if find_spec(point.module.rpartition(".")[0]) and find_spec(point.module)),
        key=lambda point: point.name,
    )


def _member_rows(enumeration: type) -> str:
    """Return a row for each member of an enumeration with the docstring that follows it."""
    source = ast.parse(textwrap.dedent(inspect.getsource(enumeration)))
    (body,) = [node.body for node in source.body if isinstance(node, ast.ClassDef)]
    rows = []
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value:
            told = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            rows.append(f"| `{ast.literal_eval(node.value)}` | {_line(str(told))} |")
    return "\n".join(rows)


def _sections(title: str, model: type[BaseModel], shown: set[type], depth: int) -> Iterator[str]:
    """Yield a heading, what the model says, its table of keys, and the models within it."""
    if model in shown:
        return
    shown.add(model)
    yield f"{'#' * depth} {title}"
    yield _plain(model)
    rows = [_row(model, name, field) for name, field in model.model_fields.items()]
    yield (
        "| key | type | default | |\n|---|---|---|---|\n" + "\n".join(rows) if rows else "No keys of its own."
    )
    yield from _inner_sections(title, model, shown, depth + 1)


def _inner_sections(title: str, model: type[BaseModel], shown: set[type], depth: int) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _sections(f"`{field.alias or name}` of {title}", inner, shown, min(depth, 4))


def _row(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if not field.description:
        raise SystemExit(
            f"{model.__module__}.{model.__name__}.{name} has no help: give its Field a description"
        )
    default = "required" if field.is_required() else _default(field)
    return f"| `{field.alias or name}` | {_field_type(field)} | {default} | {_line(field.description)} |"


def _default(field: FieldInfo) -> str:
    if field.default_factory_takes_validated_data:
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value in (None, "", (), [], {}) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, list | tuple):
        return "" if any(isinstance(part, BaseModel) for part in value) else f"`{', '.join(map(str, value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if _field_type(field) == "size":
        return f"`{settings.format_size(value)}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _field_type(field: FieldInfo) -> str:
    parsers = {getattr(getattr(part, "func", None), "__name__", "") for part in field.metadata}
    return (
        "size"
        if "parse_size" in parsers
        else "time"
        if "parse_duration" in parsers
        else _type(field.annotation)
    )


def _type(annotation: Any) -> str:
    """Return a type in words of the file: no Python modules, no `None`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in inner if part is not types.NoneType)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{_type(inner[1])} by name"
    if isinstance(origin, type) and inner:
        return f"list of {_type(inner[0])}"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _commands(command: Any, context: Any, path: str) -> Iterator[str]:
    """Yield what a command is, what it takes, and the commands within it."""
    if path != "gridcloud":
        yield f"## `{path}`"
    yield inspect.cleandoc(command.help or "").replace("``", "`")
    takes = [
        f"| {_names(parameter)} | {_line(getattr(parameter, 'help', '') or '')} |"
        for parameter in command.get_params(context)
        if parameter.name != "help" and not getattr(parameter, "hidden", False)
    ]
    if takes:
        yield "| takes | |\n|---|---|\n" + "\n".join(takes)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, name)
        if not inner.hidden:
            inner_context = inner.context_class(inner, info_name=name, parent=context)
            yield from _commands(inner, inner_context, f"{path} {name}")


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.name or '').upper()}`" + ("" if parameter.required else " (may be left out)")
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
