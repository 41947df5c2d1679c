"""What every verb has: the options that all share, the client, signals, and where output goes."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.mishaps import Interrupted, leave_pipe

if TYPE_CHECKING:
    import asyncio

    from gridcloud.client import AsyncClient
    from gridcloud.settings import SettingsFile

__all__ = ["Commons", "Frame", "common_options", "framed", "framed_lightly", "perform", "take_commons"]


@dataclass(frozen=True, slots=True)
class Commons:
    """The options that every verb takes; they may stand before the verb too."""

    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file. [GRIDCLOUD_CONFIG]")
    ] = None
    data: Annotated[Path | None, typer.Option("--data", help="Data folder. [GRIDCLOUD_DATA]")] = None
    url: Annotated[
        str,
        typer.Option("--url", help="Service to ask (https://…); its token: GRIDCLOUD_TOKEN. [GRIDCLOUD_URL]"),
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="JSON for scripts, errors too.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Where an error comes from.")] = False


class Frame:
    """One command as it runs."""

    def __init__(self, commons: Commons) -> None:
        self.json = commons.json
        self.verbose = commons.verbose
        self.url = commons.url
        self.on_signal: Callable[[int, int], None] | None = None
        """Called with a signal's number and how many came, in place of ending the command."""
        self.signalled = 0
        """The first signal that came while something was being done that it did not end at once."""
        self._commons = commons

    @property
    def config_path(self) -> Path:
        """The configuration file's path, whether it is there or not."""
        from gridcloud.settings import config_path

        return self._commons.config.absolute() if self._commons.config else config_path()

    @property
    def data_folder(self) -> Path:
        """The data folder, made if needed."""
        from gridcloud.settings import data_folder

        given = self._commons.data
        if given is None:
            return data_folder()
        given.mkdir(mode=0o700, parents=True, exist_ok=True)
        return given.absolute()

    @property
    def is_remote(self) -> bool:
        """Whether a service elsewhere is asked."""
        return bool(self.url or os.environ.get("GRIDCLOUD_URL"))

    def settings_file(self) -> SettingsFile:
        """Return the configuration file; one that was named has to be there."""
        from gridcloud.settings import SettingsFile

        return SettingsFile(self.config_path, required=self._commons.config is not None)

    async def connect(self, *, alone: bool = False) -> AsyncClient:
        """Return a client; a service that runs is asked, otherwise this process owns the store (never if ``alone``)."""
        from gridcloud.client import connect_async

        self._keep_log()
        config = self._commons.config.absolute() if self._commons.config else None
        data = None if self.is_remote else self.data_folder
        return await connect_async(
            self.url or None,
            config=config,
            data=data,
            alone=alone,
            farewell=lambda text: print(f"{text} (Ctrl-C ends them)", file=sys.stderr),
        )

    def _keep_log(self) -> None:
        """Keep what the service within this process has to say: in its log, or here with --verbose."""
        import logging
        from logging.handlers import RotatingFileHandler

        from gridcloud.service.logs import DATED, LineFormatter

        root = logging.getLogger()
        if root.handlers:
            return
        handler: logging.Handler = logging.StreamHandler()
        if not self.verbose:
            handler = logging.NullHandler()
            if not self.is_remote:
                folder = self.data_folder / "logs"
                folder.mkdir(mode=0o700, exist_ok=True)
                handler = RotatingFileHandler(
                    folder / "command.log", maxBytes=2**20, backupCount=1, delay=True
                )
        handler.setFormatter(LineFormatter(DATED))
        handler.setLevel(logging.WARNING)
        root.addHandler(handler)

    def show(self, document: Any) -> None:
        """Write a document (a model or plain data) to standard output as JSON."""
        import json

        if hasattr(document, "model_dump_json"):
            document = json.loads(document.model_dump_json())
        print(json.dumps(document, indent=2, default=str, ensure_ascii=False))

    def tell(self, document: Any, line: str) -> None:
        """Write what was done: the document for scripts, or a line for people."""
        from gridcloud.cli.printing import error_console, plain

        if self.json:
            self.show(document)
        else:
            error_console().print(plain(line))


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function with a parameter ``commons`` the options of `Commons` in its place."""

    def call(**values: Any) -> Any:
        given = {field.name: values.pop(field.name) for field in fields(Commons) if field.name in values}
        return function(commons=Commons(**given), **values)

    return _shaped(call, function, _parameters(function, {"commons": _common_parameters()}))


def take_commons(words: list[str]) -> tuple[Commons, list[str]]:
    """Return the shared options that stand before the verb, and the rest; what is not well-formed stays there."""
    given: dict[str, Any] = {}
    rest = list(words)
    while rest and rest[0].startswith("--"):
        name, has_value, value = rest[0][2:].partition("=")
        if name in ("json", "verbose") and not has_value:
            given[name] = True
            del rest[0]
        elif name in ("config", "data", "url") and (has_value or len(rest) > 1):
            text = value if has_value else rest[1]
            given[name] = text if name == "url" else Path(text)
            del rest[: 1 if has_value else 2]
        else:
            break
    return Commons(**given), rest


def framed_lightly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a verb of ``function(frame)`` that has the flags only, and so starts at once."""

    def call(ctx: typer.Context, **values: Any) -> int:
        outcome = function(Frame(_merge(ctx.obj, Commons(**values))))
        return outcome if isinstance(outcome, int) else 0

    flags = [parameter for parameter in _common_parameters() if parameter.name in ("json", "verbose")]
    return _shaped(call, function, [_context(), *flags])


def framed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a verb of ``function(frame, …)``: it gets the options that all share, and a request's where it takes one.

    A coroutine function is run; an int that is returned becomes the exit code.
    """

    def call(ctx: typer.Context, **values: Any) -> int:
        given = {field.name: values.pop(field.name) for field in fields(Commons)}
        frame = Frame(_merge(ctx.obj, Commons(**given)))
        if "request" in inspected:
            from gridcloud.cli.requests import collect

            values["request"] = collect(values)
        try:
            outcome = function(frame, **values)
            if inspect.iscoroutine(outcome):
                outcome = perform(frame, outcome)
            sys.stdout.flush()
        except BrokenPipeError:
            leave_pipe()
            raise Interrupted(signal.SIGPIPE) from None
        return outcome if isinstance(outcome, int) else 0

    inspected = inspect.signature(function).parameters
    several: dict[str, list[inspect.Parameter]] = {"frame": [_context()]}
    if "request" in inspected:
        from gridcloud.cli.requests import parameters

        several["request"] = parameters()
    return _shaped(call, function, [*_parameters(function, several), *_common_parameters()])


def perform(frame: Frame, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end. A signal cancels it, which cleans up; `Interrupted` follows."""
    import asyncio

    return asyncio.run(_guard(frame, work))


async def _guard(frame: Frame, work: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    loop = asyncio.get_running_loop()
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    came: list[int] = []

    def take(number: int) -> None:
        came.append(number)
        if frame.on_signal is not None:
            frame.on_signal(number, len(came))
        else:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, partial(take, int(number)))
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise Interrupted(came[0]) from None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _merge(before: Any, after: Commons) -> Commons:
    """Return the options given after the verb, and where they say nothing those given before it."""
    if not isinstance(before, Commons):
        return after
    said = {
        field.name: value
        for field in fields(Commons)
        if (value := getattr(after, field.name)) != field.default
    }
    return replace(before, **said)


def _context() -> inspect.Parameter:
    return inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _common_parameters() -> list[inspect.Parameter]:
    found = inspect.signature(Commons, eval_str=True).parameters.values()
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in found]


def _parameters(
    function: Callable[..., Any], several: dict[str, list[inspect.Parameter]]
) -> list[inspect.Parameter]:
    """Return a function's parameters, some of them replaced by several."""
    found: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name in several:
            found += several[name]
        else:
            found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    return found


def _shaped(
    call: Callable[..., Any], function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """Let a function look to Typer as if it had these parameters."""
    shaped: Any = call
    shaped.__signature__ = inspect.Signature(parameters)
    shaped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    shaped.__name__ = function.__name__
    shaped.__doc__ = function.__doc__
    return call
