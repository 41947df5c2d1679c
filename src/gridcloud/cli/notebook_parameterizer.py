"""``notebook_parameterizer NOTEBOOK PARAMETERS -o OUT [-e]``: the prototype's command, for scripts that have
it.

It differs from `gridcloud notebook parameterize` where the prototype did: every assignment of a parameter
that is a literal gets its value, what is at the output is written over, and a parameter that the notebook
does not have is warned of only, unless ``--strict``. Without an output the notebook goes to standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gridcloud.cli.mishaps import exit_code_of
from gridcloud.errors import InvalidRequest

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a notebook with the parameters; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(words)
    try:
        _parameterize(given)
    except Exception as error:  # whatever it is, it becomes one line and an exit code
        return exit_code_of(error, words)
    return 0


def _parameterize(given: argparse.Namespace) -> None:
    from gridcloud.cli.notebook import read_parameters, write_output
    from gridcloud.cli.printing import plain
    from gridcloud.jobs.execution import read_notebook
    from gridcloud.jobs.notebooks import Which, parameterize

    notebook = read_notebook(given.notebook_path)
    values = read_parameters(given.parameters_path, (), environment=given.expand_env_values)
    which: Which = "first" if given.first else "all"
    try:
        made = parameterize(notebook, values, which=which)
    except InvalidRequest as error:
        unknown = error.details.get("unknown")
        if given.strict or not unknown:
            raise
        print(f"warning: {plain(error)}", file=sys.stderr)
        known = {name: value for name, value in values.items() if name not in unknown}
        made = parameterize(notebook, known, which=which) if known else notebook
    write_output(made, given.output_notebook_path, overwrite=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="notebook_parameterizer", description="Write a notebook with other values for its parameters."
    )
    parser.add_argument("notebook_path", type=Path)
    parser.add_argument("parameters_path", type=Path, help="YAML or JSON: names and values")
    parser.add_argument("-o", "--output_notebook_path", type=Path, help="standard output when not given")
    parser.add_argument(
        "-e", "--expand_env_values", action="store_true", help="values ENV_NAME stand for the variable NAME"
    )
    parser.add_argument(
        "--first", action="store_true", help="change the first assignment of a parameter only"
    )
    parser.add_argument("--strict", action="store_true", help="fail where the notebook lacks a parameter")
    return parser
