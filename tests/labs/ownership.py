"""What a lab leaves in the system and who answers for it, so that nothing outlives the test process.

A lab keeps a folder under `STATE` with `owner.json` (pid, start time of the owner). Processes die with their owner by
the kernel's parent-death signal, and network namespaces, mounts and veth pairs die with their processes; control groups
and folders do not, so `sweep` removes those of owners that are dead. Claims are made under one lock, so that several
test processes can take names and subnets at once.
"""

import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CGROUPS",
    "STATE",
    "claim",
    "end_group",
    "locked",
    "make_cgroups",
    "release",
    "root_filesystem",
    "run_script",
    "start_owned",
    "sweep",
]

STATE = Path("/var/lib/gridcloud-labs")
CGROUPS = Path("/sys/fs/cgroup")
SCRIPTS = Path(__file__).parents[2] / "scripts"


def claim(kind: str) -> Path:
    """Take an unused number for a lab of this kind: its folder, `STATE/<kind><number>`, readable to root only."""
    with _lock():
        _sweep()
        taken = {path.name for path in STATE.iterdir()}
        routes = _output("ip", "-4", "route", "show")
        for number in range(1, 250):
            folder = STATE / f"{kind}{number}"
            if folder.name not in taken and f"10.213.{number}." not in routes:
                folder.mkdir(mode=0o700)
                owner = {"pid": os.getpid(), "started": _started(os.getpid())}
                (folder / "owner.json").write_text(json.dumps(owner))
                return folder
    raise RuntimeError(f"{STATE} has no free number for a lab: look for test processes that never end")


def release(folder: Path) -> None:
    """End what is left of a lab and forget its folder."""
    _remove_cgroups(folder.name)
    subprocess.run(["umount", "--recursive", "--lazy", folder], stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", "--one-file-system", folder])  # images unpacked: far quicker than shutil


def sweep() -> None:
    """Remove what labs of dead test processes left behind."""
    with _lock():
        _sweep()


def start_owned(
    command: list[str],
    *,
    cgroups: tuple[Path, ...] = (),
    environment: dict[str, str] | None = None,
    log: Path | None = None,
    waits: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start a program in a session and control groups of its own, dying with the thread that started it.

    Its output goes to `log`; its standard input is empty, or with `waits` a pipe.
    """
    join = (
        'for group in $JOIN_CGROUPS; do echo $$ > "$group/cgroup.procs"; done; unset JOIN_CGROUPS; exec "$@"'
    )
    base = dict(os.environ) if environment is None else environment
    with (log or Path(os.devnull)).open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "sh", "-c", join, "sh", *command],
            env=base | {"JOIN_CGROUPS": " ".join(map(str, cgroups))},
            cwd=log.parent
            if log
            else None,  # Podman's monitor leaves a file named "oom" where it was started
            stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def make_cgroups(
    lab: str, name: str, *, memory: str | None = None, cpus: float | None = None
) -> tuple[Path, ...]:
    """Make control groups for a part of a lab in every hierarchy this kernel has; `release` removes them."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    tops = [CGROUPS] if unified else [path.parent for path in CGROUPS.glob("*/cgroup.clone_children")]
    groups = []
    for top in tops:
        if unified:
            for parent in (top, top / f"gridcloud-lab-{lab}"):
                parent.mkdir(exist_ok=True)
                (parent / "cgroup.subtree_control").write_text("+memory +cpu +pids")
        group = top / f"gridcloud-lab-{lab}" / name
        group.mkdir(parents=True)
        for file in ("cpuset.mems", "cpuset.cpus"):  # empty in a new group of the first version
            for path in (group.parent / file, group / file):
                if not unified and path.exists():
                    path.write_text((top / file).read_text())
        groups.append(group)
    limits: dict[str, str] = {}
    if memory:
        limits["memory.max" if unified else "memory.limit_in_bytes"] = memory
    if cpus:
        quota = int(cpus * 100_000)
        limits |= {"cpu.max": f"{quota} 100000"} if unified else {"cpu.cfs_quota_us": str(quota)}
    for file, value in limits.items():
        (group,) = (group for group in groups if (group / file).exists())
        (group / file).write_text(value)
    return tuple(groups)


def end_group(process: "subprocess.Popen[bytes]", *, gently: float = 0) -> None:
    """End a program and its process group: SIGTERM with `gently` seconds to obey, then SIGKILL."""
    if gently and process.poll() is None:
        process.terminate()
        try:
            process.wait(gently)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)
    if process.stdin:
        process.stdin.close()


def root_filesystem() -> Path:
    """The root file system that machines and session containers run in; built at first use (about 80 s)."""
    return Path(run_script([str(SCRIPTS / "build-root-filesystem")]))


def run_script(command: list[str]) -> str:
    """Run one of the project's scripts with this Python; what it prints."""
    # Kept where the account keeps its caches: tests run with a home of their own, which they throw away.
    home = pwd.getpwuid(os.getuid()).pw_dir
    environment = os.environ | {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", "PYTHON": sys.executable}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def read(path: Path) -> str:
    """A file that may vanish meanwhile; empty then."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among all test processes of this computer."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep() -> None:
    for folder in STATE.iterdir():
        if folder.is_dir() and not _owner_lives(folder):
            release(folder)


def _owner_lives(folder: Path) -> bool:
    try:
        owner = json.loads((folder / "owner.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(_started(owner["pid"]) == owner["started"])


def _started(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _remove_cgroups(name: str) -> None:
    """Kill what runs in the control groups of a lab (`gridcloud-lab-<name>` in every hierarchy) and remove them."""
    tops = [*CGROUPS.glob(f"*/gridcloud-lab-{name}"), *CGROUPS.glob(f"gridcloud-lab-{name}")]
    deadline = time.monotonic() + 5
    while tops and time.monotonic() < deadline:
        for top in list(tops):
            groups = sorted(top.rglob("cgroup.procs"), key=lambda path: -len(path.parts))
            for procs in groups:
                for pid in read(procs).split():
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                try:
                    procs.parent.rmdir()
                except OSError:
                    pass
            if not top.exists():
                tops.remove(top)
        if tops:
            time.sleep(0.02)


@contextmanager
def _lock() -> Iterator[None]:
    STATE.mkdir(mode=0o700, exist_ok=True)
    with locked(STATE / "lock"):
        yield


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
