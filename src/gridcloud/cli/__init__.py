"""The command line: one file per noun, imported when its verb is asked for.

What people read goes to standard output as tables or, with ``--json``, as one JSON document; how it goes along and
what went wrong go to standard error. The exit code tells the family of the error (`gridcloud.errors`).
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Annotated, Any, ClassVar

import typer
import typer.core
import typer.main

from gridcloud.cli.frame import Commons, common_options, take_commons
from gridcloud.cli.mishaps import exit_code_of

__all__ = ["app", "main"]


class _Verbs(typer.core.TyperGroup):
    """Imports a verb's module only when the verb is used, so that a quick verb stays quick."""

    modules: ClassVar[dict[str, str]] = {
        "up": "up",
        "serve": "serve",
        "demo": "demo",
        "offers": "offers",
        "run": "run",
        "instance": "instance",
        "session": "session",
        "job": "job",
        "notebook": "notebook",
        "share": "share",
        "data": "data",
        "stack": "stack",
        "cluster": "cluster",
        "provider": "provider",
        "profile": "profile",
        "course": "course",
        "image": "image",
        "agent": "agent",
        "authority": "authority",
        "grid": "grid",
        "budget": "budget",
        "config": "config",
        "token": "token",
        "doctor": "doctor",
        "version": "version",
    }

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = self.modules.get(cmd_name)
        if name is None:
            return None
        command = typer.main.get_command(importlib.import_module(f"gridcloud.cli.{name}").app)
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj, rest = take_commons(args)
        # Typer imports a validation library to look at any option but a flag, given or not.
        ctx.meta[_QUICK] = bool(rest) and not rest[0].startswith("-")
        found: list[str] = super().parse_args(ctx, rest if ctx.meta[_QUICK] else args)
        return found

    def get_params(self, ctx: Any) -> Any:
        return [] if ctx.meta.get(_QUICK) else super().get_params(ctx)


_QUICK = "gridcloud.quick"

app = typer.Typer(
    name="gridcloud",
    cls=_Verbs,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        import gridcloud

        print(gridcloud.__version__)
        raise typer.Exit


@app.callback()
@common_options
def _start(
    commons: Commons,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Any machine you may use, from one notebook: ask for what you need, not for where it is."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; the program's entry."""
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        # Most of a command's time goes into imports, whose objects stay: looking through them for garbage is vain.
        gc.set_threshold(50_000, 20, 50)
    try:
        outcome = app(args=words, prog_name="gridcloud", standalone_mode=False)
    except Exception as error:  # whatever it is, it becomes one line and an exit code
        return exit_code_of(error, words)
    except KeyboardInterrupt:
        return 130
    return outcome if isinstance(outcome, int) else 0
