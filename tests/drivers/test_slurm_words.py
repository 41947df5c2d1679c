"""What Slurm says and what we say to it, without a Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gridcloud.drivers.instances.slurm_choices import choose, resources
from gridcloud.drivers.instances.slurm_job import Names, render_script, submit_words
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.drivers.slurm_words import (
    FORMAT,
    build_error,
    format_time,
    parse_jobs,
    parse_nodes,
    parse_partitions,
    parse_start,
    parse_time,
)
from gridcloud.errors import GridcloudError, NoCapacity, QuotaExceeded, Rejected, Transient, Unreachable
from gridcloud.instances.model import Request
from gridcloud.testing.instances import HOSTILE_TEXTS

GOLDEN = Path(__file__).with_name("golden") / "slurm_job.sh"
URL = "https://hub.example.org:8443"
NODES = """\
NodeName=gpu01 Arch=x86_64 CoresPerSocket=32 CPUAlloc=10 CPUEfctv=126 CPUTot=128 CPULoad=2.57 AvailableFeatures=a,b \
Gres=gpu:A100:4(S:0-1),gpu:mig:2,nic:1 NodeAddr=10.0.0.1 OS=Linux 6.1 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=512000 \
AllocMem=1000 FreeMem=1 State=MIXED+PLANNED TmpDisk=100000 Partitions=gpu,all  BootTime=2026-11-21T10:47:59 \
Comment=State=DOWN Reason=nothing special [root@2026-11-21T10:47:59]
NodeName=old01 CPUTot=8 RealMemory=16000 State=DOWN*+DRAIN TmpDisk=0 Gres=gpu:2 Partitions=all Reason=dead
NodeName=old02 CPUTot=8 RealMemory=16000 State=IDLE+CLOUD TmpDisk=0 Gres=(null) Partitions=all
"""
PARTITIONS = """\
PartitionName=all AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES DefaultTime=01:00:00 MaxTime=UNLIMITED \
DisableRootJobs=YES MaxCPUsPerNode=UNLIMITED MaxMemPerNode=UNLIMITED Nodes=old[01-02],gpu01 State=UP
PartitionName=gpu AllowAccounts=hep,bio AllowQos=gold DenyAccounts=none Default=NO DefaultTime=NONE \
MaxTime=2-12:00:00 MaxCPUsPerNode=64 MaxMemPerNode=256000 DisableRootJobs=NO State=UP
PartitionName=night AllowAccounts=ALL AllowQos=ALL MaxTime=10:00 State=INACTIVE
"""


def settings(**more: object) -> SlurmSettings:
    return SlurmSettings.model_validate({"driver": "slurm", "url": URL, **more})


def test_nodes_and_partitions_are_read() -> None:
    gpu, old, cloud = parse_nodes(NODES)
    assert (gpu.cpus, gpu.memory, gpu.disk) == (126, 512000 << 20, 100000 << 20)
    assert gpu.gpus == {"a100": 4, "mig": 2}
    assert gpu.partitions == {"gpu", "all"}
    assert [node.usable for node in (gpu, old, cloud)] == [True, False, True]
    assert old.gpus == {"": 2}
    every, some, night = parse_partitions(PARTITIONS)
    assert every.default
    assert not every.root
    assert (every.longest, every.usual) == (0, 3600)
    assert some.accounts == {"hep", "bio"}
    assert (some.longest, some.cpus, some.memory) == (216000, 64, 256000 << 20)
    assert not night.up


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("10:00", 600),
        ("01:00:00", 3600),
        ("7-00:00:00", 604800),
        ("1-12", 129600),
        ("2-12:30", 217800),
    ],
)
def test_times_are_read(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds
    assert parse_time(format_time(seconds)) == seconds


def test_no_limits_are_no_times() -> None:
    assert [parse_time(text) for text in ("UNLIMITED", "NONE", "n/a", "", "INVALID")] == [0] * 5
    assert format_time(0) == "1"
    assert format_time(61) == "2"


def test_jobs_of_others_break_nothing() -> None:
    names = Names("here", "cluster", "/home/ada/.gridcloud/slurm")
    ours = ("12", "RUNNING", "None", "1795283387", "N/A", "n1", "work", names.comment, "/", "gridcloud-i-one")
    moved = (
        "13",
        "PENDING",
        "Resources",
        "N/A",
        "N/A",
        "",
        "work",
        "site",
        names.folder("i-two"),
        "gridcloud-i-two",
    )
    strange = (
        (
            "14",
            "RUNNING",
            "None",
            "1",
            "2",
            "n1",
            "work",
            "gridcloud:there:cluster",
            "/",
            "gridcloud-i-three",
        ),
        ("15", "RUNNING", "None", "1", "2", "n1", "work", names.comment, "/", "gridcloud-../../etc"),
        ("16", "RUNNING", "None", "1", "2", "n1", "work", names.comment, "/", "i-four"),
        ("17_3", "RUNNING", "None", "1", "2", "n1", "work", names.comment, "/", "gridcloud-i-five"),
        ("18", "RUNNING", "None", "1", "2", "n1", "work", "a\x1fb", "/", "gridcloud-i-six"),
        ("19", "RUNNING"),
    )
    jobs = parse_jobs("\n".join("\x1f".join(words) for words in (ours, moved, *strange)) + "\n")
    assert [one for job in jobs if (one := names.owner_of(job))] == ["i-one", "i-two"]
    assert (jobs[0].start, jobs[0].end) == (1795283387, 0)
    assert jobs[0].runs
    assert jobs[1].waits
    assert FORMAT.count("\x1f") == 9


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            Unreachable,
        ),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", Unreachable),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Transient),
        (
            "error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
            QuotaExceeded,
        ),
        ("allocation failure: Requested partition configuration not available now", NoCapacity),
        ("allocation failure: Invalid account or account/partition combination specified", Rejected),
        ("allocation failure: Requested node configuration is not available", Rejected),
        ("allocation failure: Requested reservation is invalid", Rejected),
        ("", Rejected),
    ],
)
def test_refusals_are_understood(said: str, kind: type[GridcloudError]) -> None:
    assert type(build_error(said)) is kind


def test_starts_are_read() -> None:
    said = "sbatch: Job 12 to start at 1795283386 using 1 processors on nodes n2 in partition short"
    assert parse_start(said) == 1795283386
    assert parse_start("allocation failure: no") is None


def test_a_partition_is_chosen_by_its_limits() -> None:
    known = (parse_partitions(PARTITIONS), parse_nodes(NODES))

    def tried(root: bool = False, given: SlurmSettings | None = None, **asked: object) -> dict[str, str]:
        request = Request.model_validate({"cpus": 1, "memory": 1 << 30, **asked})
        return {one.partition: one.why_not for one in choose(request, *known, given or settings(), root)}

    assert tried() == {
        "all": "",
        "gpu": "partition gpu: is for the accounts bio, hep",
        "night": "partition night: takes no jobs now",
    }
    hep = settings(account="hep", partitions=["gpu"])
    assert tried(given=hep) == {"gpu": ""}
    assert tried(given=hep, cpus=65) == {"gpu": "partition gpu: 65 CPUs asked, 64 at most"}
    assert "jobs last 3600 minutes at most, 3601 were asked" in tried(given=hep, time=216001)["gpu"]
    assert tried(given=settings(account="none", partitions=["gpu"]))["gpu"].startswith(
        "partition gpu: is for"
    )
    assert tried(root=True)["all"] == "partition all: takes no jobs of root"
    (choice,) = choose(
        Request(cpus=1.5, memory=(1 << 30) + 1, gpus=2, gpu_model="a1", disk=1 << 30, time=7200),
        *known,
        hep,
        False,
    )
    assert choice.shape.gpu_model == "a100"
    words = resources(
        Request(cpus=1.5, memory=(1 << 30) + 1, gpus=2, disk=1 << 30), choice.minutes, choice.gres, "gpu", hep
    )
    assert words == [
        *("--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--mem=1025M", "--partition=gpu", "--no-requeue"),
        *("--time=125", "--gres=gpu:a100:2", "--tmp=1024M", "--account=hep"),
    ]


def test_the_script_of_a_job_is_as_written() -> None:
    script = render_script(
        ("/opt/grid cloud/bin/gridcloud",),
        URL,
        "/home/ada/.gridcloud/slurm/here/cluster/instances/i-one",
        home="/home/ada",
        authorities=True,
        proxy="http://proxy:3128",
        environment={"B": "it's $HOME", "A": "1"},
        before="module load python\n",
    )
    assert script == GOLDEN.read_text()
    names = Names("here", "cluster", "/shared")
    assert submit_words(names, "i-one", ("--mem=1M",)) == (
        *("sbatch", "--parsable", "--job-name=gridcloud-i-one", "--comment=gridcloud:here:cluster"),
        *("--dependency=singleton", "--export=NONE", "--chdir=/shared/here/cluster/instances/i-one"),
        *("--output=/shared/here/cluster/instances/i-one/log", "--open-mode=append", "--mem=1M"),
    )


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_words_stay_words(text: str, tmp_path: Path) -> None:
    text = text.replace("/tmp/x", str(tmp_path / "touched"))
    said = tmp_path / "said"
    echo = ("/usr/bin/env", "sh", "-c", 'printf "%s\\n" "$@" "$WORD" >said', "sh")
    script = render_script(echo, URL, text, home=text, environment={"WORD": text})
    subprocess.run(["/bin/sh"], input=script.encode(), cwd=tmp_path, check=True, timeout=20)
    words = said.read_text().splitlines()
    assert words[-1] == text
    assert f"{text}/token" in words
    assert words[words.index("--home") + 1] == text
    assert not (tmp_path / "touched").exists()
    names = Names("here", "cluster", "/shared")
    assert names.home(text).startswith("/shared/here/homes/")
    assert names.home(text).rpartition("/")[2].isalnum()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://hub"},
        {"url": "https://me:secret@hub"},
        {"proxy": "http://me:secret@proxy:3128"},
        {"proxy": "me:secret//@proxy:3128"},
        {"directory": "relative"},
        {"directory": "~/../x"},
        {"partitions": ["a b"]},
        {"account": "a\nb"},
        {"environment": {"A B": "1"}},
        {"nonsense": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        settings(**wrong)
