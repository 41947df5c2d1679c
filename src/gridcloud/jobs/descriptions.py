"""Jobs as people describe them: by options, in a YAML file, or from a program; and the order that this makes.

    command: [python3, sim.py, --energy, "{energy}"]    # or script: FILE, or notebook: FILE
    over: [energy=1..5:0.5, "sample=a,b"]
    where: energy > 2
    inputs: [sim.py, data/]
    outputs: ["*.png"]
    request: {cpus: 2, memory: 4GiB, time: 1h}

Files are named as they lie here; what is handed over of them is their content.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import Field, ValidationError

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.model import Command, Dependency, Input, NotebookRun, Order, Output, Retries, When, Work
from gridcloud.jobs.orders import UPLOAD
from gridcloud.jobs.sweeps import read_sweep
from gridcloud.settings.document import read_document
from gridcloud.settings.request import Record, Request, Text
from gridcloud.settings.values import Duration

__all__ = ["Description", "read_description", "read_job_file"]

RUNNERS = {".py": "python3", ".sh": "sh", ".bash": "bash", ".r": "Rscript", ".jl": "julia", ".pl": "perl"}
"""What runs a script, by the end of its name; any other runs itself."""
MOST_FILES = 10_000


class Description(Record):
    """What somebody wants to have run."""

    command: tuple[str, ...] = Field(
        default=(), description="program and arguments; {name} stands for a parameter"
    )
    script: str = Field(
        default="", description="a file to hand over and run: .py, .sh, .R, .jl or an executable one"
    )
    notebook: str = Field(default="", description="a notebook to hand over and run")
    arguments: tuple[str, ...] = Field(default=(), description="arguments of the script")
    which: str = Field(
        default="first",
        pattern="^(first|all)$",
        description="which assignments of a notebook get the parameters",
    )
    resume: bool = Field(
        default=False, description="a notebook that is tried again goes on at the cell that failed"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="the same for all jobs")
    over: tuple[str, ...] = Field(default=(), description="a sweep's axes, e.g. energy=1..5:0.5")
    where: str = Field(default="", description="which of the sweep are run, e.g. energy > 2")
    samples: int = Field(default=1, description="jobs for each of the product, where something is drawn")
    seed: int = Field(default=0, description="the same seed draws the same")
    latin: bool = Field(default=False, description="draw by Latin hypercube")
    environment: dict[str, str] = Field(default_factory=dict, description="variables")
    secrets: dict[str, str] = Field(
        default_factory=dict, description="variables by reference; administrators only"
    )
    inputs: tuple[str, ...] = Field(
        default=(), description="files and folders to hand over: PATH, or PATH=NAME there"
    )
    outputs: tuple[str, ...] = Field(default=(), description="patterns of files to be kept")
    request: Request = Field(default_factory=Request, description="what each job needs; time is its limit")
    name: Text = Field(default="", description="what you call it")
    after: tuple[str, ...] = Field(
        default=(), description="jobs that have to end first: ID, or failed:ID, or ended:ID"
    )
    retries: Retries = Field(default_factory=Retries, description="how often it is tried again, by cause")
    rerunnable: bool = Field(default=False, description="it may be begun again where it was begun already")
    reuse: bool = Field(
        default=False, description="take the results of the same job, where it was done before"
    )
    on: tuple[str, ...] = Field(default=(), description="these schedulers only")
    within: Duration = Field(
        default=0,
        description="the cheapest scheduler that begins it within this time, e.g. 10m; 0: the soonest",
    )

    def build(self, folder: Path) -> tuple[Order, dict[str, Path]]:
        """Return the order, and the files to hand over by their digests. ``folder``: where relative paths begin.

        Reads the files. Raises InvalidRequest, naming what is wrong.
        """
        files: dict[str, Path] = {}
        for text in self.inputs:
            source, equals, name = text.rpartition("=")
            found = Path(source if equals else text)
            files |= _gather(folder / found, name if equals else _name_of(found, folder))
        given = [bool(self.command), bool(self.script), bool(self.notebook)]
        if sum(given) != 1:
            raise InvalidRequest("Say one of command, script and notebook: what is to be run.")
        run: Command | NotebookRun
        if self.notebook:
            path = PurePath(self.notebook).name
            files[path] = folder / self.notebook
            run = NotebookRun(path=path, which="all" if self.which == "all" else "first", resume=self.resume)
        else:
            words = self.command
            if self.script:
                name = PurePath(self.script).name
                files[name] = folder / self.script
                runner = RUNNERS.get(PurePath(name).suffix.lower())
                words = (*((runner,) if runner else ()), name if runner else f"./{name}", *self.arguments)
            run = Command(words=words)
        contents = {path: _digest(place) for path, place in files.items()}
        try:
            order = self._order(run, contents, folder)
        except ValidationError as error:
            raise _told(error) from None
        return order, {digest: files[path] for path, digest in contents.items()}

    def _order(self, run: Command | NotebookRun, contents: Mapping[str, str], folder: Path) -> Order:
        rows: tuple[dict[str, Any], ...] = ()
        if self.over:
            sweep = read_sweep(
                self.over,
                where=self.where,
                samples=self.samples,
                seed=self.seed,
                latin=self.latin,
                open_table=lambda name: _read(folder / name),
            )
            rows = tuple(sweep.rows())
        elif self.where or self.samples != 1 or self.latin:
            raise InvalidRequest(
                "'where', 'samples' and 'latin' are for a sweep.", remedy="Give it by 'over'."
            )
        outputs = [Output(pattern=one) for one in self.outputs]
        if isinstance(run, NotebookRun):
            outputs.append(Output(pattern=run.path))
        work = Work(
            run=run,
            parameters=self.parameters,
            environment=self.environment,
            image=self.request.image,
            inputs=tuple(Input(source=f"{UPLOAD}{digest}", path=path) for path, digest in contents.items()),
            outputs=tuple(outputs),
        )
        only = (self.request.on,) if self.request.on and not self.on else self.on
        return Order(
            work=work,
            name=self.name or _first_words(run),
            project=self.request.project,
            request=self.request.model_copy(update={"on": ""}),
            secrets=self.secrets,
            rows=rows,
            after=tuple(map(_dependency, self.after)),
            retries=self.retries,
            rerunnable=self.rerunnable,
            reuse=self.reuse,
            on=only,
            within=self.within,
        )


def read_description(values: Mapping[str, Any]) -> Description:
    """Return a description of these fields. Raises InvalidRequest, with each that is wrong."""
    try:
        return Description.model_validate(dict(values))
    except ValidationError as error:
        raise _told(error) from None


def read_job_file(text: str, name: str) -> dict[str, Any]:
    """Return the fields that a job file gives. Raises InvalidRequest, with the places of what is wrong."""
    document = read_document(name, text, example="command: [python3, sim.py]")
    for key in document.values:
        if key not in Description.model_fields:
            document.fault((key,), f"unknown key; known are: {', '.join(Description.model_fields)}")
    for key in ("over", "inputs", "outputs", "after", "on", "command", "arguments"):
        value = document.values.get(key)
        if isinstance(value, str):  # one of them, or a line as typed
            document.values[key] = shlex.split(value) if key in ("command", "arguments") else [value]
        elif isinstance(value, list):
            document.values[key] = [str(one) for one in value]
    request = document.values.get("request")
    if isinstance(request, dict):  # 4 without a unit is refused where a person writes it
        sizes = {key: str(request[key]) for key in ("memory", "disk", "gpu_memory") if key in request}
        document.values["request"] = {**request, **sizes}
    if document.faults:
        raise InvalidRequest("\n".join(map(str, document.faults)))
    return document.values


def _told(error: ValidationError) -> InvalidRequest:
    told = [
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}."
        for fault in error.errors(include_url=False)
    ]
    return InvalidRequest(" ".join(told))


def _dependency(text: str) -> Dependency:
    when, _, on = text.rpartition(":")
    known = {"": When.OK, "any": When.ENDED, "done": When.ENDED} | {str(one): one for one in When}
    if when not in known:
        raise InvalidRequest(
            f"{text!r:.100} is no job to wait for.", remedy="Write ID, failed:ID or ended:ID."
        )
    return Dependency(on=on, when=known[when])


def _gather(place: Path, name: str) -> dict[str, Path]:
    """The files of a path, by their names in the job's folder."""
    if place.is_file():
        return {name: place}
    if not place.is_dir():
        raise InvalidRequest(f"There is no file {str(place)!r:.200} to hand over.")
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file():
            found[str(PurePath(name) / path.relative_to(place))] = path
            if len(found) > MOST_FILES:
                raise InvalidRequest(
                    f"The folder {str(place)!r:.200} has more than {MOST_FILES:,} files.",
                    remedy="Pack it into one.",
                )
    return found


def _name_of(path: Path, folder: Path) -> str:
    """Where a file lies in the job's folder: as it does here, or by its name alone if it lies elsewhere."""
    try:
        relative = (folder / path).resolve().relative_to(folder.resolve())
    except ValueError:
        return path.name
    return str(relative) if str(relative) != "." else ""


def _digest(place: Path) -> str:
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidRequest(f"{str(place)!r:.200} cannot be read: {error.strerror}.") from error


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The table {str(place)!r:.200} cannot be read: {error}.") from error


def _first_words(run: Command | NotebookRun) -> str:
    text = run.path if isinstance(run, NotebookRun) else " ".join(run.words)
    return "".join(one if one.isprintable() else " " for one in text)[:60].strip()
