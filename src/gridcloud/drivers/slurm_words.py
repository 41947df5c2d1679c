"""What Slurm's commands say: nodes, partitions, jobs, and refusals.

The one-line format of scontrol and formats of squeue that are given in full have been the same for many versions; JSON
differs between them, and needs a plugin that not every site has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gridcloud.errors import GridcloudError, NoCapacity, QuotaExceeded, Rejected, Transient, Unreachable

__all__ = [
    "FORMAT",
    "Job",
    "Node",
    "Partition",
    "build_error",
    "format_time",
    "parse_jobs",
    "parse_nodes",
    "parse_partitions",
    "parse_start",
    "parse_time",
]

MEBI = 1024**2
_SEPARATOR = "\x1f"
FORMAT = _SEPARATOR.join(("%i", "%T", "%r", "%S", "%e", "%N", "%P", "%k", "%Z", "%j"))
"""What squeue is asked for: id, state, reason, start, end, nodes, partition, comment, folder, name."""

UNUSABLE = (
    "DOWN",
    "DRAIN",
    "FAIL",
    "MAINT",
    "NOT_RESPONDING",
    "INVAL",
    "FUTURE",
    "UNKNOWN",
    "PERFCTRS",
    "BLOCKED",
)
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset({"RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})

# The first that fits. What is refused for a reason of ours is Rejected; what may pass, Unavailable.
_REFUSALS: tuple[tuple[str, type[GridcloudError]], ...] = (
    ("unable to contact slurm controller", Unreachable),
    ("socket timed out", Unreachable),
    ("connection refused", Unreachable),
    ("communication connection failure", Unreachable),
    ("zero bytes were transmitted", Unreachable),
    ("slurm backup controller", Unreachable),
    ("temporarily unable to accept job", Transient),
    ("qos policy", QuotaExceeded),
    ("job submit limit", QuotaExceeded),
    ("exceeds", QuotaExceeded),
    ("maxsubmit", QuotaExceeded),
    ("requested partition configuration not available now", NoCapacity),
    ("required node not available", NoCapacity),
    ("required partition not available", NoCapacity),
    ("partition is in drain", NoCapacity),
    ("reservation is invalid", Rejected),
    ("reservation", NoCapacity),
)


@dataclass(frozen=True, slots=True)
class Node:
    """One node. Memory in bytes."""

    name: str
    usable: bool
    cpus: int
    memory: int
    disk: int
    partitions: frozenset[str]
    gpus: Mapping[str, int] = field(default_factory=dict)
    """Number of GPUs by type, in lower case; the type is empty where Slurm was told none."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. ``longest`` and ``usual``: seconds that a job lasts at most, and unless it says; 0: any."""

    name: str
    default: bool
    up: bool
    longest: int
    usual: int
    accounts: frozenset[str]
    denied: frozenset[str]
    qos: frozenset[str]
    root: bool
    """Whether root may use it."""
    cpus: int
    """CPUs of one node that a job may have at most; 0: all."""
    memory: int
    """Bytes of one node that a job may have at most; 0: all."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times in seconds since 1970; 0: not known."""

    id: str
    state: str
    reason: str
    start: int
    end: int
    nodes: str
    partition: str
    comment: str
    folder: str
    name: str

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def runs(self) -> bool:
        """Whether it has nodes."""
        return self.state in RUNNING

    @property
    def lives(self) -> bool:
        """Whether it waits or runs; one that is being ended does neither."""
        return self.waits or self.runs


def parse_nodes(said: str) -> list[Node]:
    """Return what ``scontrol --oneliner show nodes`` told."""
    found = []
    for fields in _lines(said, "NodeName"):
        state = fields.get("State", "UNKNOWN").upper()
        found.append(
            Node(
                name=fields["NodeName"],
                usable=not any(word in state for word in UNUSABLE),
                cpus=_number(fields.get("CPUEfctv")) or _number(fields.get("CPUTot")),
                memory=_number(fields.get("RealMemory")) * MEBI,
                disk=_number(fields.get("TmpDisk")) * MEBI,
                partitions=frozenset(filter(None, fields.get("Partitions", "").split(","))),
                gpus=_gpus(fields.get("Gres", "")),
            )
        )
    return found


def parse_partitions(said: str) -> list[Partition]:
    """Return what ``scontrol --oneliner show partitions`` told."""
    return [
        Partition(
            name=fields["PartitionName"],
            default=fields.get("Default") == "YES",
            up=fields.get("State", "UP") == "UP",
            longest=parse_time(fields.get("MaxTime", "")),
            usual=parse_time(fields.get("DefaultTime", "")),
            accounts=_names(fields.get("AllowAccounts", "ALL")),
            denied=_names(fields.get("DenyAccounts", "ALL")),
            qos=_names(fields.get("AllowQos", "ALL")),
            root=fields.get("DisableRootJobs") != "YES",
            cpus=_number(fields.get("MaxCPUsPerNode")),
            memory=_number(fields.get("MaxMemPerNode")) * MEBI,
        )
        for fields in _lines(said, "PartitionName")
    ]


def parse_jobs(said: str) -> list[Job]:
    """Return what squeue told in FORMAT; lines that others' names broke are left out."""
    found = []
    for line in said.split("\n"):
        words = line.split(_SEPARATOR)
        if len(words) == 10 and words[0].isdigit():
            start, end = (int(word) if word.isdigit() else 0 for word in words[3:5])
            found.append(Job(words[0], words[1], words[2], start, end, *words[5:]))
    return found


def parse_start(said: str) -> int | None:
    """Return when a job would start, in seconds since 1970, as ``sbatch --test-only`` told; None when it did not."""
    match = re.search(r"Job \S+ to start at (\d+) ", said)
    return int(match[1]) if match else None


def parse_time(text: str) -> int:
    """Return the seconds of ``[DAYS-]HOURS:MINUTES:SECONDS``; 0 for no limit, or what is no time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return 0
    days, first, second, third = match.groups()
    if days is not None or third is not None:  # hours come first then
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = "0", first, second
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)


def format_time(seconds: int) -> str:
    """Return minutes, as Slurm takes and counts them."""
    return str(max(-(-seconds // 60), 1))


def build_error(complaint: str, kind: type[GridcloudError] = Rejected) -> GridcloudError:
    """Return the error for what a command of Slurm's complained of; of ``kind`` where it is none that is known."""
    words = "; ".join(
        re.sub(r"^(\w+: )?((fatal|error): )?", "", line).strip()
        for line in complaint.splitlines()
        if line.strip()
    )
    lower = words.lower()
    kind = next((error for text, error in _REFUSALS if text in lower), kind)
    return kind(f"Slurm says: {words[:400] or 'nothing'}.")


def _lines(said: str, first: str) -> Iterable[dict[str, str]]:
    for line in said.splitlines():
        if line.startswith(f"{first}="):
            # Values may hold blanks; each ends where the next name begins.
            yield dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", line))


def _gpus(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    # gpu:a100:4(S:0-1),gpu:2,nic:1
    for one in re.sub(r"\([^)]*\)", "", text).split(","):
        match = re.fullmatch(r"gpu(?::([^:]+))?:(\d+)", one.strip(), re.IGNORECASE)
        if match:
            kind = (match[1] or "").lower()
            found[kind] = found.get(kind, 0) + int(match[2])
    return found


def _names(text: str) -> frozenset[str]:
    return frozenset() if text in ("ALL", "", "N/A", "(null)") else frozenset(text.split(","))


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
