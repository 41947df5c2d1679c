"""What every benchmark says of the machine it ran on, and how it takes its arguments."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["machine", "run"]


def machine() -> dict[str, Any]:
    """Return the machine and its load now."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


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
        print(f"{name:>24}: {value:.3f}" if isinstance(value, float) else f"{name:>24}: {value}")
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")
