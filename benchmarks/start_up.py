"""`gridcloud version`, beside `python -c "import typer"` with the same interpreter in the same run.

    python -m benchmarks.start_up [--rounds 20] [--json FILE]

Goal: under 2x. The median of each counts, the two taking turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.report import run


def measure(rounds: int) -> dict[str, Any]:
    """Return the seconds of both, and their ratio."""
    commands = {
        "import typer": [sys.executable, "-c", "import typer"],
        "gridcloud version": [str(Path(sys.executable).with_name("gridcloud")), "version"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begin)
    typer, ours = (statistics.median(seconds[name]) for name in commands)
    return {
        "import_typer_seconds": typer,
        "version_seconds": ours,
        "ratio": ours / typer,
        "goals": {"ratio": "under 2"},
    }


if __name__ == "__main__":
    run(__doc__, measure, rounds=20)
