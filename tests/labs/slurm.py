"""A Slurm of the tests' own: controller, nodes and munge on this computer's loopback, ready within a second or two.

    with Slurm() as slurm:
        subprocess.run(["sinfo"], env={**os.environ, **slurm.environment})

Its processes live in namespaces of their own, so that they and all jobs end with the lab. Nodes ``n1`` (with a GPU that
is only counted) and ``n2`` have 2 cores and 1 GiB each; partitions: ``work`` (both, a day, the default), ``short``
(n1, 10 minutes), ``staff`` (n2, for the account staff) and ``closed`` (n2, takes no jobs).
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.labs import ownership

__all__ = ["Slurm", "missing_for_slurm"]

PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "unshare": "util-linux",
}
NODES = ("n1", "n2")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
EnforcePartLimits=ALL
GresTypes=gpu
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/controller
SlurmdLogFile={folder}/log/%n
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=300
KillWait=10
InactiveLimit=0
MessageTimeout=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=1024 Gres=gpu:a100:1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=1024 State=UNKNOWN
PartitionName=work Nodes=n1,n2 Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=short Nodes=n1 MaxTime=00:10:00 State=UP
PartitionName=staff Nodes=n2 MaxTime=1-00:00:00 AllowAccounts=staff State=UP
PartitionName=closed Nodes=n2 MaxTime=1-00:00:00 State=DOWN
"""


class Slurm:
    """One running Slurm. A context manager; `open` and `close` do the same by hand."""

    def __init__(self) -> None:
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need to know."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def log(self) -> str:
        """What its programs have said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("log*/**/*")))

    def entry(self, url: str, ca: Path, directory: Path, **settings: Any) -> dict[str, Any]:
        """Return the entry of a provider of its jobs, whose agents dial a service here."""
        return {
            "driver": "slurm",
            "url": url,
            "ca": str(ca),
            "directory": str(directory),
            "command": [sys.executable, "-m", "gridcloud"],
            "environment": self.environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            "wait": 0,
            "share_account": True,
            "allow_root": True,
            **settings,
        }

    def open(self) -> Self:
        self.folder = ownership.claim("slurm")
        try:
            self._write()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End it with all its jobs, and remove its files. May be called twice."""
        if self._process:
            ownership.end_group(self._process)
            self._process = None
        if self.folder.name:
            ownership.release(self.folder)

    def run(self, *words: str) -> str:
        """Run one of its commands; return what it says."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def wait_idle(self, seconds: float = 30) -> None:
        """Wait until all nodes are ready and free."""
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(
                ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"],
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
            )
            if set(done.stdout.split()) == set(NODES):
                return
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"Slurm is not ready: {done.stdout}{done.stderr}\n{self.log[-5000:]}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        for name in ("munge", "log", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o755)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))
        controller, n1, n2 = _free_ports(3)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, controller=controller, n1=n1, n2=n2)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("NodeName=n1 Name=gpu Type=a100 File=/dev/zero\n")

    def _start(self) -> None:
        script = str(Path(__file__).with_name("slurm.sh"))
        self._process = ownership.start_owned(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", script,
             str(self.folder), *NODES],
            environment={"PATH": os.environ["PATH"]},
            log=self.folder / "log" / "output",
        )  # fmt: skip
        self.wait_idle()


def missing_for_slurm() -> str | None:
    """Why Slurm cannot be started here, with the command that mends it; None when it can."""
    if os.geteuid():
        return "jobs of Slurm need root: sudo make test"
    lacking = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    return f"jobs of Slurm need Debian packages: apt-get install {' '.join(lacking)}" if lacking else None


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody uses; all are held until all are known, so that none comes twice."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in taken]
    finally:
        for one in taken:
            one.close()
