"""What the ``local`` driver finds out of this computer, and how it runs a script here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["GPU", "boot_id", "closed_folder", "discover_gpus", "measure_computer", "run_script"]


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU: its identifier, model, and memory in bytes."""

    id: str
    model: str
    memory: int


async def run_script(script: str) -> tuple[int, str]:
    """Run shell text, given on standard input; return its exit code and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
    )
    _, complaints = await process.communicate(script.encode())
    return process.returncode or 0, complaints.decode(errors="replace").strip()


def boot_id() -> str:
    """Return what changes whenever this computer is restarted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def closed_folder() -> str:
    """Return the folder that keeps other accounts from the Python we run on, empty when none does."""
    program = Path(sys.executable)
    for place in (program, program.resolve(), Path(os.__file__).resolve(), Path(__file__).resolve()):
        for folder in reversed(place.parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return ""


def measure_computer() -> tuple[float, int]:
    """Return cores and bytes of memory that this process may use: the machine's, or its container's."""
    cpus, memory = float(len(os.sched_getaffinity(0))), psutil.virtual_memory().total
    groups = Path("/sys/fs/cgroup")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int((groups / name).read_text()))
    with contextlib.suppress(OSError, ValueError):
        quota, period = (groups / "cpu.max").read_text().split()
        cpus = min(cpus, int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        share = int((groups / "cpu/cpu.cfs_quota_us").read_text())
        if share > 0:
            cpus = min(cpus, share / int((groups / "cpu/cpu.cfs_period_us").read_text()))
    return cpus, memory


async def discover_gpus() -> tuple[GPU, ...]:
    """Return the GPUs nvidia-smi tells of, within 8 seconds; none where it is not installed or does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ()
    process = await asyncio.create_subprocess_exec(
        *("nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(8):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ()
    rows = (line.split(", ") for line in out.decode().splitlines() if line.count(", ") == 2)
    return tuple(
        GPU(id=row[0], model=row[1], memory=int(row[2]) * 1024**2) for row in rows if row[2].isdigit()
    )
