"""The service as a program: ``python -m gridcloud.service --config FILE --data FOLDER``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from gridcloud.connections.forkserver import Program
from gridcloud.errors import GridcloudError
from gridcloud.service.logs import begin_logging
from gridcloud.service.process import run
from gridcloud.settings import SettingsFile, config_path, data_folder

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="gridcloud.service", description="The service of one data folder.")
    parser.add_argument("--config", type=Path, default=None, help="the configuration file")
    parser.add_argument("--data", type=Path, default=None, help="the data folder")
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        type=_program,
        metavar="NAME=MODULE:FUNCTION[,MODULE…]",
        help="a Python program that starts at once on this computer, with modules to import beforehand",
    )
    parser.add_argument(
        "--block", action="append", default=[], metavar="MODULE", help="a module that those may not import"
    )
    asked = parser.parse_args(arguments)
    settings_file = SettingsFile(asked.config or config_path())
    begin_logging("text")
    try:
        begin_logging(settings_file.current()[0].logs.format)
        asyncio.run(run(settings_file, asked.data or data_folder(), asked.program, asked.block))
    except GridcloudError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _program(text: str) -> Program:
    first, *preload = text.split(",")
    name, _, target = first.partition("=")
    module, _, function = target.partition(":")
    if not name or not module:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODULE:FUNCTION")
    return Program(name, module, function or "main", tuple(preload))


if __name__ == "__main__":
    sys.exit(main())
