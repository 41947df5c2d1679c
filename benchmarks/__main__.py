"""All benchmarks, one after the other, into docs/benchmarks.md.

    python -m benchmarks [NAME …]

Each runs in a process of its own. The table stands between two marks of the page; what is written around them is
kept. With names, only those run, and the others keep the rows they have.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import judge

NAMES = (
    "spawn",
    "hub",
    "offers",
    "instances",
    "clouds",
    "offers_clouds",
    "reconcile",
    "memory",
    "start_up",
    "ssh_transfer",
    "discovery",
    "grid",
    "agents",
    "matching",
    "notebooks",
)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
NUMBERS = ROOT / "docs" / "benchmarks.json"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def main() -> int:
    """Run what is named; return 1 when a benchmark failed or missed a goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    results = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    failed = [name for name in names if not _run(name, results)]
    NUMBERS.write_text(
        json.dumps({name: results[name] for name in NAMES if name in results}, indent=2) + "\n"
    )
    _write(results)
    missed = [f"{name} {goal.name}" for name in results for goal in judge(results[name]) if not goal.met]
    for words, found in (("failed", failed), ("goal missed", missed)):
        if found:
            print(f"{words}: {', '.join(found)}", file=sys.stderr)
    return 1 if failed or missed else 0


def _run(name: str, results: dict[str, Any]) -> bool:
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result.json"
        words = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(target)]
        if subprocess.run(words, check=False, cwd=ROOT).returncode or not target.exists():
            return False
        results[name] = json.loads(target.read_text()) | {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    return True


def _write(results: dict[str, Any]) -> None:
    """Put the tables between the marks of the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [
        *_goals(results),
        "",
        *(line for name in NAMES if name in results for line in _details(name, results)),
    ]
    PAGE.write_text("\n".join([before + BEGIN, *lines, END]) + after)


def _goals(results: dict[str, Any]) -> list[str]:
    lines = ["| benchmark | measured | value | goal | |", "|---|---|---:|---|---|"]
    for name in NAMES:
        for goal in judge(results[name]) if name in results else ():
            words = goal.name.replace("_", " ")
            lines.append(
                f"| `{name}` | {words} | {goal.value:.2f} | {goal.goal} | {'met' if goal.met else '**missed**'} |"
            )
    return lines


def _details(name: str, results: dict[str, Any]) -> list[str]:
    result = results[name]
    about = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").split("\n\n")[0].replace("\n", " ")
    where = f"{result['date']}, {result['machine']}, Python {result['python']}, load {result['load']} when it began"
    told = {"goals", "machine", "python", "load", "date"}
    cells = [(key.replace("_", " "), value) for key, value in result.items() if key not in told]
    return [
        f"### {name}",
        "",
        about,
        "",
        f"`python -m benchmarks.{name}`: {where}.",
        "",
        "| | |",
        "|---|---:|",
        *(
            f"| {key} | {value:.3g} |" if isinstance(value, float) else f"| {key} | {value} |"
            for key, value in cells
        ),
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
