"""How soon all institutions of a community know all, over mutual TLS on loopback and UDP unused, beside pyipv8.

    python -m benchmarks.discovery [--most 100] [--processes 0] [--ipv8 1] [--quiet 60] [--json FILE]

With 20, 50 and 100 members (``most``: no more than that), which are spread over so many ``processes`` (0: one for each
core); pyipv8's are in one. ``discovery``: seconds from the last joining until all hold the records of all. ``changed``:
all change their records at once, and all hold all the new ones; that is the harder one. Bytes at rest are counted in
the ``quiet`` seconds afterwards, on ways to each member that count.

Goals: discovery within 2, 4 and 8 s.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from benchmarks.grid_crowd import open_crowds
from benchmarks.report import run

PROGRAM = Path(__file__).parent / "ipv8_discovery.py"
GOALS = {20: 2, 50: 4, 100: 8}
"""Seconds of discovery, by members."""


def measure(most: int, processes: int, ipv8: int, quiet: int) -> dict[str, Any]:
    """Return the figures of each size."""
    processes = processes or os.cpu_count() or 1
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    found: dict[str, Any] = {"processes": processes}
    goals: dict[str, str] = {}
    for members, bound in GOALS.items():
        if members > most:
            continue
        folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
        try:
            found |= asyncio.run(_discover(folder, members, processes, quiet))
        finally:
            shutil.rmtree(folder)
        if ipv8:
            found[f"pyipv8_seconds_{members}"] = _discover_ipv8(members)
        goals[f"discovery_seconds_{members}"] = f"under {bound}"
    return {**found, "goals": goals}


async def _discover(folder: Path, members: int, processes: int, quiet: int) -> dict[str, Any]:
    async with open_crowds(folder, members, processes) as crowds:

        async def each(name: str, *arguments: Any) -> list[Any]:
            return await asyncio.gather(*(crowd.do(name, *arguments) for crowd in crowds))

        ids = await each("ids")
        host = crowds[0]
        begin = time.perf_counter()
        await host.do("found")
        for crowd, guests in zip(crowds, ids, strict=True):
            for guest in guests:
                if guest != ids[0][0]:
                    await crowd.do("join", guest, await host.do("invite", guest), ids[0][0])
        joined = time.perf_counter()
        await each("know", members)
        found = time.perf_counter()
        await each("move")
        await asyncio.sleep(3)  # a record that is replaced within 2 s is not heard
        begin_change = time.perf_counter()
        await each("change")
        changed = time.perf_counter() - begin_change
        await asyncio.sleep(min(30, quiet))  # until the last pauses between two rounds are long ones
        already = sum(await each("carried"))
        await asyncio.sleep(quiet)
        carried = sum(await each("carried")) - already
    return {
        f"joining_seconds_{members}": joined - begin,
        f"discovery_seconds_{members}": found - joined,
        f"changed_seconds_{members}": changed,
        f"idle_bytes_sent_per_member_per_hour_{members}": carried / members * 3600 / quiet,
    }


def _discover_ipv8(members: int) -> float | str:
    """Return what pyipv8 takes, in an interpreter with it alone; or why it was not to be had."""
    folder = user_cache_path("gridcloud") / "benchmarks" / "pyipv8"
    python = folder / "bin" / "python"
    try:
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            words = [str(python), "-m", "pip", "install", "--quiet", "pyipv8"]
            subprocess.run(words, check=True, timeout=300, capture_output=True)
            (folder / "complete").touch()
        words = [str(python), str(PROGRAM), str(members), "120"]
        done = subprocess.run(words, check=True, timeout=240, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"peer not available: {type(error).__name__}"
    seconds, known = done.stdout.split()[-2:]
    if int(known) < members - 1:
        return f"not within {float(seconds):.0f} s; a member knew {known} others"
    return float(seconds)


if __name__ == "__main__":
    run(__doc__, measure, most=100, processes=0, ipv8=1, quiet=60)
