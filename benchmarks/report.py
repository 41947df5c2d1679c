"""How every benchmark takes its arguments, judges its goals, and says what machine it ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Judgement", "judge", "machine", "run"]


class Judgement(NamedTuple):
    """One goal of a benchmark: what was to be reached, and what was."""

    name: str
    value: float
    goal: str
    met: bool


def machine() -> dict[str, Any]:
    """Return the machine and its load now."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def judge(result: dict[str, Any]) -> Iterator[Judgement]:
    """Yield the ``goals`` of a result: entries of it with ``under N`` or ``at least N``."""
    for name, goal in result["goals"].items():
        relation, _, bound = goal.rpartition(" ")
        value = float(result[name])
        met = {"under": value < float(bound), "at least": value >= float(bound)}[relation]
        yield Judgement(name, value, goal, met)


def run(doc: str | None, measure: Callable[..., dict[str, Any]], **numbers: int) -> None:
    """Run a benchmark as a program: ``numbers`` become options; the result is printed, and written with --json."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, help="also write the result there")
    chosen = vars(parser.parse_args())
    target: Path | None = chosen.pop("json")
    before = machine()
    result = {**measure(**chosen), **before}
    for name, value in result.items():
        if name != "goals":
            print(f"{name:>28}: {value:.3f}" if isinstance(value, float) else f"{name:>28}: {value}")
    for one in judge(result):
        print(f"{one.name} is {one.value:.2f}, {one.goal} was the goal: {'met' if one.met else 'NOT met'}")
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")
