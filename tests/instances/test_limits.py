"""The rendered scripts: their text, and that the limits they set hold."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridcloud.instances.limits import Limits, render_enter, render_leave, render_prepare

GOLDEN = Path(__file__).parent / "golden"
GROUPS = Path("/sys/fs/cgroup")
UNIFIED = (GROUPS / "cgroup.controllers").exists()
SHELLS = [words for words in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(words[0])]


def limits(directory: Path | str, **more: object) -> Limits:
    values: dict[str, object] = {"cpus": 1, "memory": 128 << 20} | more
    return Limits("golden-1", str(directory), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "render"),
    [("prepare", render_prepare), ("enter", render_enter), ("leave", render_leave)],
)
def test_text(name: str, render: Callable[[Limits], str]) -> None:
    asked = Limits(
        instance_id="ab-12",
        directory="/var/lib/it's here/$(ab-12)",
        cpus=2.5,
        memory=4 << 30,
        processes=1000,
        gpus=("0", "GPU-5a"),
        user="ada",
    )
    path = GOLDEN / f"limits_{name}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(asked))
    assert render(asked) == path.read_text(), "changed on purpose? Run the test with UPDATE_GOLDEN=1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"instance_id": "a; touch x"},
        {"instance_id": "../up"},
        {"directory": "relative"},
        {"directory": "/a\0b"},
        {"user": "-rf"},
        {"user": "a b"},
        {"gpus": ("0; touch x",)},
        {"cpus": 0},
        {"cpus": float("inf")},
        {"memory": 0},
        {"processes": 0},
    ],
)
def test_what_is_no_plain_word_is_refused(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"instance_id": "abc-1", "directory": "/d", "cpus": 1, "memory": 1}
    with pytest.raises(ValueError, match=r"not|above"):
        Limits(**values | wrong)  # type: ignore[arg-type]


@pytest.fixture
def directory() -> Iterator[Path]:
    """An instance's folder, which any account can pass."""
    with tempfile.TemporaryDirectory(prefix="gct-limits-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        (Path(name) / "it's $HOME").mkdir()
        yield Path(name) / "it's $HOME"


@pytest.fixture(params=SHELLS, ids=lambda words: words[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def start(shell: list[str], script: str, *words: str, **more: object) -> subprocess.Popen[str]:
    command = [*shell, "-c", script, "script", *words]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, **more)  # type: ignore[call-overload]


def run(shell: list[str], script: str, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
    process = start(shell, script, *words, **more)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def group_of(controller: str) -> Path:
    return GROUPS / ("" if UNIFIED else controller) / "gridcloud" / "golden-1"


@pytest.fixture
def groups(directory: Path) -> Iterator[Limits]:
    """Real control groups, a quarter of a core each."""
    asked = limits(directory, cpus=0.25)
    assert run(["/bin/sh"], render_prepare(asked)).returncode == 0
    if not (group_of("memory") / ("memory.max" if UNIFIED else "memory.limit_in_bytes")).exists():
        pytest.skip("control groups cannot be made here: run as root of the machine, not of a container")
    yield asked
    assert run(["/bin/sh"], render_leave(asked)).returncode == 0


@pytest.mark.needs_root
class TestControlGroups:
    def test_are_joined(self, groups: Limits, shell: list[str]) -> None:
        done = run(shell, render_enter(groups), "sh", "-c", "cat /proc/self/cgroup; ulimit -d")
        assert done.stdout.count(":/gridcloud/golden-1\n") == (1 if UNIFIED else 3)
        assert done.stdout.endswith("unlimited\n")

    def test_are_made_by_root_who_enters_an_unprepared_machine(
        self, groups: Limits, shell: list[str]
    ) -> None:
        assert run(shell, render_leave(groups)).returncode == 0
        done = run(shell, render_enter(groups), "cat", "/proc/self/cgroup")
        assert ":/gridcloud/golden-1\n" in done.stdout

    @pytest.mark.skipif(UNIFIED, reason="on v2 only root moves a process into a group at the top")
    def test_are_joined_by_their_account_alone(self, directory: Path, shell: list[str]) -> None:
        asked = limits(directory, user="nobody")
        run(shell, render_prepare(asked))
        done = run(shell, render_enter(asked), "cat", "/proc/self/cgroup", user="nobody")
        assert done.stdout.count(":/gridcloud/golden-1\n") == 3
        group = group_of("memory")
        with pytest.raises(PermissionError):
            _write_as("nobody", group / "memory.limit_in_bytes", "999999999")
        assert run(shell, render_leave(asked)).returncode == 0

    def test_memory_over_the_limit_is_killed(self, groups: Limits, shell: list[str]) -> None:
        hog = "import sys; print('started', flush=True); block = bytearray(200 << 20); print('kept')"
        done = run(shell, render_enter(groups), sys.executable, "-c", hog)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, "started\n")

    def test_cpus_are_held_to_their_share(self, groups: Limits, shell: list[str]) -> None:
        spin = start(shell, render_enter(groups), "sh", "-c", "while :; do :; done")
        deadline = time.monotonic() + 20
        while "nr_throttled 0\n" in (stat := (group_of("cpu") / "cpu.stat").read_text()):
            assert time.monotonic() < deadline, stat
            time.sleep(0.02)
        spin.kill()
        spin.communicate()

    def test_processes_are_held_to_their_number(self, directory: Path, groups: Limits) -> None:
        asked = limits(directory, processes=5)
        run(["/bin/sh"], render_prepare(asked))
        many = "exec >/dev/null 2>&1; for n in 1 2 3 4 5 6 7 8; do sleep 600 & done"
        done = run(["/bin/sh"], render_enter(asked), "sh", "-c", many)
        assert done.returncode != 0

    def test_leave_ends_all_and_removes_the_groups(self, groups: Limits, shell: list[str]) -> None:
        here = start(shell, render_enter(groups), "sleep", "600")
        away = start(
            shell, render_enter(groups), "setsid", "env", "-i", "sh", "-c", "trap '' TERM; sleep 600 & wait"
        )
        _until(lambda: len((group_of("pids") / "cgroup.procs").read_text().split()) == 3)
        assert run(shell, render_leave(groups)).returncode == 0
        assert not group_of("pids").exists()
        assert not group_of("memory").exists()
        for process in (here, away):
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        assert run(shell, render_leave(groups)).returncode == 0

    def test_leave_outruns_what_forks_without_end(self, groups: Limits) -> None:
        bomb = start(["/bin/sh"], render_enter(groups), "sh", "-c", "while :; do sleep 60 & done")
        _until(lambda: len((group_of("pids") / "cgroup.procs").read_text().split()) > 20)
        assert run(["/bin/sh"], render_leave(groups)).returncode == 0
        assert not group_of("pids").exists()
        bomb.communicate()


class TestWithoutControlGroups:
    @pytest.fixture
    def bare(self, directory: Path) -> Limits:
        return limits(directory, groups=str(directory / "none"), gpus=("1", "GPU-a"))

    def test_environment(self, bare: Limits, shell: list[str]) -> None:
        told = "echo $GRIDCLOUD_INSTANCE $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"
        assert run(shell, render_enter(bare), "sh", "-c", told).stdout == "golden-1 1 1,GPU-a\n"
        chosen = os.environ | {"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "0"}
        done = run(shell, render_enter(bare), "sh", "-c", told, env=chosen)
        assert done.stdout == "golden-1 7 1,GPU-a\n"

    def test_words_arrive_as_they_are(self, bare: Limits, shell: list[str]) -> None:
        words = ["a b", "$(id)", "", "'\"", "-n", "*", "\n"]
        done = run(shell, render_enter(bare), "printf", "<%s>", *words)
        assert done.stdout == "".join(f"<{word}>" for word in words)
        assert run(shell, render_enter(bare), "sh", "-c", "exit 7").returncode == 7
        assert run(shell, render_enter(bare), "no-such-program").returncode == 127

    def test_memory_is_held_for_each_process(self, bare: Limits, shell: list[str]) -> None:
        fits = run(shell, render_enter(bare), sys.executable, "-c", "block = bytearray(30 << 20)")
        assert (fits.returncode, fits.stderr) == (0, "")
        hog = run(shell, render_enter(bare), sys.executable, "-c", "block = bytearray(200 << 20)")
        assert hog.stderr.endswith("MemoryError\n")

    def test_processors_are_whole_cores_at_lower_priority(self, bare: Limits, shell: list[str]) -> None:
        tell = "import os; print(len(os.sched_getaffinity(0)), os.nice(0))"
        done = run(shell, render_enter(bare), sys.executable, "-c", tell)
        assert done.stdout == f"1 {min(os.nice(0) + 5, 19)}\n" or not shutil.which("taskset")

    def test_adopt_says_what_a_process_does_itself(self, bare: Limits, shell: list[str]) -> None:
        done = run(shell, render_enter(bare), "--adopt", str(os.getpid()))
        lines = done.stdout.splitlines()
        assert lines[:4] == [
            "export GRIDCLOUD_INSTANCE=golden-1",
            "export OMP_NUM_THREADS=1",
            "export CUDA_VISIBLE_DEVICES=1,GPU-a",
            f"data {128 << 20}",
        ]
        assert lines[-1] == "nice 5"
        if len(os.sched_getaffinity(0)) > 1:
            assert int(lines[4].removeprefix("cores ")) in os.sched_getaffinity(0)

    def test_leave_ends_what_carries_the_name(self, bare: Limits, shell: list[str]) -> None:
        ours = start(shell, render_enter(bare), "setsid", "sleep", "600")
        other = subprocess.Popen(["sleep", "600"], env=os.environ | {"GRIDCLOUD_INSTANCE": "golden-10"})
        _until(lambda: b"GRIDCLOUD_INSTANCE" in Path(f"/proc/{ours.pid}/environ").read_bytes())
        assert run(shell, render_leave(bare)).returncode == 0
        ours.communicate()
        assert ours.returncode == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
        other.wait()

    def test_nothing_enters_what_is_gone(self, bare: Limits, directory: Path, shell: list[str]) -> None:
        directory.rmdir()
        for words in (("true",), ("--adopt", "1")):
            done = run(shell, render_enter(bare), *words)
            assert (done.returncode, done.stderr) == (126, "gridcloud: instance golden-1 is gone\n")


class TestUnifiedGroupsOnATreeOfFiles:
    """The files of control groups v2 as plain ones: what is written where, on machines that have v1."""

    @pytest.fixture
    def asked(self, directory: Path) -> Limits:
        tree = directory.parent / "groups"
        tree.mkdir()
        (tree / "cgroup.controllers").write_text("cpu memory pids")
        tree.chmod(0o777)
        return limits(directory, cpus=1.5, groups=str(tree))

    def test_prepare_and_enter(self, asked: Limits, shell: list[str]) -> None:
        for _ in range(2):
            assert run(shell, render_prepare(asked)).returncode == 0
        group = Path(asked.groups) / "gridcloud" / "golden-1"
        written = {path.name: path.read_text() for path in group.iterdir()}
        assert written == {
            "cpu.max": "150000 100000\n",
            "memory.max": f"{128 << 20}\n",
            "memory.swap.max": "0\n",
            "memory.oom.group": "0\n",
            "pids.max": "4096\n",
        }
        assert (group.parent / "cgroup.subtree_control").exists()
        done = run(shell, render_enter(asked), "sh", "-c", "echo $$; ulimit -d; exec nice")
        assert done.stdout == f"{(group / 'cgroup.procs').read_text()}unlimited\n{os.nice(0)}\n"

    def test_leave_tells_the_kernel_and_kills(self, asked: Limits, shell: list[str]) -> None:
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        run(shell, render_prepare(asked), **user)
        process = start(shell, render_enter(asked), "env", "-i", "sleep", "600", **user)
        group = Path(asked.groups) / "gridcloud" / "golden-1"
        _until((group / "cgroup.procs").exists)
        assert run(shell, render_leave(asked), **user).returncode == 0
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert (group / "cgroup.kill").read_text() == "1\n"
        assert (group / "pids.max").read_text() == "0\n"


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _write_as(user: str, path: Path, text: str) -> None:
    done = subprocess.run(["tee", str(path)], input=text, user=user, text=True, capture_output=True)
    if done.returncode:
        raise PermissionError(done.stderr)
