"""Notebooks with parameters: given their values in the cell that is tagged for it, or where they are assigned.

A notebook with a cell tagged `parameters` gets another after it, tagged `injected-parameters`, as papermill makes it:
that works for every language. Without one, assignments of Python notebooks are found by their syntax tree
(`assignments`) and given other values in place. A parameter that the notebook does not have is an error: what is
misspelt would otherwise change nothing.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.assignments import Assignment, find_assignments, render_value, replace_values

__all__ = ["Parameter", "Which", "expand_environment", "find_parameters", "language_of", "parameterize"]

Which = Literal["first", "all"]
"""Whether the first assignment of a parameter is given its value, or each one of a literal."""

TAG = "parameters"
INJECTED = "injected-parameters"
ENVIRONMENT = "ENV_"
SHOWN = 10
NAME = re.compile(r"[^\W\d_][\w.]*")
"""A variable's name in any of the languages."""

Notebook = dict[str, Any]
"""A notebook as its JSON is, of format 4."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something that a notebook can be given another value for."""

    name: str
    cell: int
    """Number of the cell, from 0."""
    line: int
    value: str
    """The source of the value that it has."""


def find_parameters(notebook: Notebook) -> list[Parameter]:
    """Return what a Python notebook can be given, each name once, in its order: of the tagged cell where there is one.

    Raises InvalidRequest when it is no Python notebook.
    """
    _require_python(notebook)
    tagged = _tagged(notebook, TAG)
    found: dict[str, Parameter] = {}
    for number, (source, assignments) in _assignments(notebook).items():
        if tagged is None or number == tagged:
            for one in assignments:
                if one.plain and one.name not in found:
                    text = "" if one.appended else source.encode()[one.start : one.end].decode()
                    found[one.name] = Parameter(one.name, number, one.line, text)
    return list(found.values())


def parameterize(notebook: Notebook, values: Mapping[str, Any], *, which: Which = "first") -> Notebook:
    """Return a copy of the notebook with these values for its parameters; its outputs are kept as they are.

    Raises InvalidRequest, naming the parameters, when it does not have one of them.
    """
    made = copy.deepcopy(notebook)
    _check_form(made)
    tagged = _tagged(made, TAG)
    if tagged is not None:
        return _inject(made, tagged, values)
    _require_python(made)
    cells = _assignments(made)
    chosen: dict[int, list[tuple[Assignment, Any]]] = {}
    missing = dict(values)
    for number, (_, assignments) in cells.items():
        for one in assignments:
            if one.name in values and (one.name in missing or (which == "all" and one.plain)):
                missing.pop(one.name, None)
                chosen.setdefault(number, []).append((one, values[one.name]))
    if missing:
        raise _unknown(missing, [one.name for _, assignments in cells.values() for one in assignments])
    for number, changes in chosen.items():
        _write(made["cells"][number], replace_values(cells[number][0], changes))
    return made


def expand_environment(values: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Return values with each text `ENV_NAME` in them replaced by the environment's variable `NAME`.

    Raises InvalidRequest, naming the variable, where there is none.
    """
    if isinstance(values, Mapping):
        return {key: expand_environment(value, environment) for key, value in values.items()}
    if isinstance(values, list):
        return [expand_environment(value, environment) for value in values]
    if not isinstance(values, str) or not values.startswith(ENVIRONMENT):
        return values
    name = values.removeprefix(ENVIRONMENT)
    if name not in environment:
        raise InvalidRequest(
            f"The parameter's value {values!r} stands for the environment variable {name}, which is not set."
        )
    return environment[name]


def language_of(notebook: Notebook) -> str:
    """Return the language of a notebook in small letters: what its metadata says, or Python where they say nothing."""
    metadata = notebook.get("metadata", {})
    kernel, info = metadata.get("kernelspec", {}), metadata.get("language_info", {})
    said = str(kernel.get("language") or info.get("name") or kernel.get("name") or "python").lower()
    return "python" if said.startswith(("python", "ipython", "xpython")) else said.partition("-")[0]


def _inject(notebook: Notebook, tagged: int, values: Mapping[str, Any]) -> Notebook:
    language = language_of(notebook)
    render = LANGUAGES.get(language)
    if render is None:
        raise InvalidRequest(
            f"Notebooks in {language} cannot be given parameters.",
            remedy=f"These can: {', '.join(LANGUAGES)}.",
        )
    if language == "python":
        has = [one.name for one in find_assignments(_source(notebook["cells"][tagged]))]
        if missing := {name: value for name, value in values.items() if name not in has}:
            raise _unknown(missing, has)
    elif wrong := [name for name in values if not NAME.fullmatch(name)]:
        raise InvalidRequest(f"{wrong[0][:100]!r} is not a parameter's name.")
    lines = [render(name, value) for name, value in values.items()]
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [INJECTED]},
        "outputs": [],
        "source": "\n".join(lines),
    }
    if (notebook["nbformat"], notebook.get("nbformat_minor", 0)) >= (4, 5):
        cell["id"] = INJECTED
    before = _tagged(notebook, INJECTED)
    if before is None:
        notebook["cells"].insert(tagged + 1, cell)
    else:
        notebook["cells"][before] = cell
    return notebook


def _r(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case int() if abs(value) < 2**31:
            return f"{value}L"
        case int() | float():
            return {"inf": "Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(float(value)), repr(float(value)))
        case str():
            return _quoted(value)
        case list() | tuple():
            return f"list({', '.join(map(_r, value))})"
        case Mapping():
            return f"list({', '.join(f'{_quoted(str(key))} = {_r(one)}' for key, one in value.items())})"
    return render_value(value)


def _julia(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return {"inf": "Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(value), repr(value))
        case str():
            return _quoted(value).replace("$", "\\$")
        case list() | tuple():
            return f"[{', '.join(map(_julia, value))}]"
        case Mapping():
            return f"Dict({', '.join(f'{_julia(str(key))} => {_julia(one)}' for key, one in value.items())})"
    return render_value(value)


def _bash(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        raise InvalidRequest("A notebook of the shell can be given numbers and text only.")
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return "'" + text.replace("'", "'\\''") + "'"


def _quoted(text: str) -> str:
    """A text in double quotes, escaped as C, R and Julia read it."""
    names = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    written = (names.get(one) or (one if one.isprintable() else f"\\U{ord(one):08x}") for one in text)
    return f'"{"".join(written)}"'


LANGUAGES: dict[str, Callable[[str, Any], str]] = {
    "python": lambda name, value: f"{name} = {render_value(value)}",
    "r": lambda name, value: f"{name} = {_r(value)}",
    "julia": lambda name, value: f"{name} = {_julia(value)}",
    "bash": lambda name, value: f"{name}={_bash(value)}",
}
"""How each language assigns a value."""


def _unknown(missing: Mapping[str, Any], has: list[str]) -> InvalidRequest:
    known = list(dict.fromkeys(has))
    told = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
    return InvalidRequest(
        f"The notebook has no parameter {', '.join(map(repr, missing))}.",
        remedy=f"It assigns {told or 'nothing'}.",
        details={"unknown": sorted(missing)},
    )


def _assignments(notebook: Notebook) -> dict[int, tuple[str, list[Assignment]]]:
    """Source and assignments of each cell of code; a cell that is no Python is passed over, as it may never run."""
    found = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell.get("cell_type") == "code":
            source = _source(cell)
            try:
                found[number] = (source, find_assignments(source))
            except (SyntaxError, ValueError, RecursionError):
                continue
    return found


def _tagged(notebook: Notebook, tag: str) -> int | None:
    for number, cell in enumerate(notebook["cells"]):
        if cell.get("cell_type") == "code" and tag in cell.get("metadata", {}).get("tags", ()):
            return number
    return None


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _write(cell: dict[str, Any], source: str) -> None:
    """Set the source in the form that it had: a text, or a list of lines."""
    cell["source"] = source if isinstance(cell.get("source"), str) else source.splitlines(keepends=True)


def _require_python(notebook: Notebook) -> None:
    _check_form(notebook)
    if (language := language_of(notebook)) != "python":
        raise InvalidRequest(
            f"The notebook is in {language}, and no cell of it is tagged {TAG!r}.",
            remedy="Tag the cell that holds its parameters (in JupyterLab: the gear at the right, Cell Tags).",
        )


def _check_form(notebook: Notebook) -> None:
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise InvalidRequest(
            "This is no notebook of format 4.",
            remedy="Convert it: jupyter nbconvert --to notebook --nbformat 4.",
        )
