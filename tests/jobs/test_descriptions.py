"""What people write becomes an order, and what is wrong with it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.cli.job_results import best_of, table_of
from gridcloud.errors import InvalidRequest
from gridcloud.jobs.collecting import matches
from gridcloud.jobs.descriptions import read_description, read_job_file
from gridcloud.jobs.frame import read_end, read_result, render_job
from gridcloud.jobs.model import Cause, Command, NotebookRun, State, When
from gridcloud.jobs.orders import digest_of, environment_of, words_of
from gridcloud.service.job_documents import JobResult

JOB_FILE = """\
script: sim.py
arguments: --energy {energy} --note 'a b'
over: energy=0..0.3:0.1
where: energy > 0
inputs: [data]
outputs: "*.png"
request: {cpus: 2, memory: 4GiB, time: 1h}
after: failed:j-0123456789
retries: {memory: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sim.py").write_text("print(1)")
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a b.csv").write_text("1,2")
    (tmp_path / "n.ipynb").write_text("{}")
    return tmp_path


def test_a_job_file_becomes_an_order(folder: Path) -> None:
    order, files = read_description(read_job_file(JOB_FILE, "job.yaml")).build(folder)
    assert order.work.run == Command(words=("python3", "sim.py", "--energy", "{energy}", "--note", "a b"))
    assert [row["energy"] for row in order.rows] == [0.1, 0.2, 0.3]
    assert words_of(order, order.rows[2])[3] == "0.3"
    assert sorted(one.path for one in order.work.inputs) == ["data/deep/a b.csv", "sim.py"]
    assert {path.name for path in files.values()} == {"a b.csv", "sim.py"}
    assert order.request.time == 3600
    assert order.after[0].when is When.FAILED
    assert order.retries.memory == 2
    assert order.name.startswith("python3 sim.py")


def test_a_notebook_is_handed_over_and_kept(folder: Path) -> None:
    order, _ = read_description({"notebook": "n.ipynb", "parameters": {"x": 1}, "resume": True}).build(folder)
    assert order.work.run == NotebookRun(path="n.ipynb", resume=True)
    assert [one.pattern for one in order.work.outputs] == ["n.ipynb"]
    words = words_of(order, {}, resume=True)
    assert words[4:] == ["-m", "gridcloud.jobs.execution", "n.ipynb", "-o", "n.ipynb", *words[-3:]]
    assert words[-3:] == ["--parameters", "../parameters.json", "--resume"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("comand: [true]", "job.yaml:1:1: comand: unknown key"),
        ("command: [a]\nscript: sim.py", "one of command, script and notebook"),
        ("{}", "one of command"),
        ("command: [a]\nrequest: {memory: 4}", "write the unit"),
        ("command: [a]\ninputs: [nowhere]", "no file"),
        ("command: [a]\nwhere: x > 1", "for a sweep"),
        ("command: [a]\nafter: when:j-1", "no job to wait for"),
        ("command: [a]\noutputs: [../x]", "within the job's folder"),
        ("command: [a]\nover: ['@none.csv']", "none.csv"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_description(read_job_file(text, "job.yaml")).build(folder)
    assert told in str(caught.value)


def test_only_parameters_are_put_into_words(folder: Path) -> None:
    order, _ = read_description(
        {"command": ["awk", "{print $1} {x} {y} {{x}}"], "parameters": {"x": "{y}"}}
    ).build(folder)
    assert words_of(order, {"y": 2})[1] == "{print $1} {y} 2 {{y}}"
    assert environment_of(order, {}, "a-1", 3)["GRIDCLOUD_INDEX"] == "3"


def test_a_digest_is_of_what_results_depend_on(folder: Path) -> None:
    def digest(**more: object) -> str:
        values = {"command": ["sim", "{x}"], "parameters": {"x": 1}, "inputs": ["sim.py"], **more}
        return digest_of(read_description(values).build(folder)[0], {})

    same = digest()
    assert same == digest(name="other", request={"cpus": 4})
    assert same != digest(parameters={"x": 2})
    assert same != digest(environment={"A": "1"})
    (folder / "sim.py").write_text("print(2)")
    assert same != digest()


def test_hostile_words_stay_words() -> None:
    text = render_job(["-x", "a'b", "$(id)\n"], {"A": "'; rm -rf / #"}, log=1)["job.sh"].decode()
    assert text == "export A=''\"'\"'; rm -rf / #'\nset -- ./-x 'a'\"'\"'b' '$(id)\n'\n"
    with pytest.raises(InvalidRequest, match="NUL"):
        render_job(["a\0b"], {}, log=1)


def test_last_words_are_whole_or_none() -> None:
    text = b'{"exit": 143, "why": "time", "cpu": "0m1.5s 1m0.5s", "memory": 2, "begun": 1.00, "ended": 3.50}   \n'
    end = read_end(text)
    assert end is not None
    assert (end.cpu, end.memory, end.wall, end.signal) == (62.0, 2048, 2.5, 15)
    assert end.cause is Cause.TIME
    assert all(read_end(text[:length]) is None for length in range(90))
    assert read_end(b"") is None
    assert read_end(b"[]") is None
    assert read_end(b'{"exit": null}') is None
    with pytest.raises(InvalidRequest):
        read_result(b"[1]")


@pytest.mark.parametrize(
    ("path", "pattern", "found"),
    [
        ("a.png", "*.png", True),
        ("deep/a.png", "*.png", False),
        ("deep/a.png", "**/*.png", True),
        ("a.png", "**/*.png", True),
        ("plots/a b\n.png", "plots", True),
        ("plots2/a", "plots", False),
        ("a1", "a[0-9]", True),
        ("ab", "a[!0-9]", True),
        ("a.b", "a?b", True),
        ("axb", "a.b", False),
    ],
)
def test_patterns(path: str, pattern: str, found: bool) -> None:
    assert matches(path, pattern) is found


def test_a_table_has_parameters_and_results() -> None:
    results = [
        JobResult(id="a-0", state=State.DONE, parameters={"x": 1}, results={"loss": 2.5, "x": "y"}),
        JobResult(id="a-1", state=State.FAILED, cause=Cause.MEMORY, parameters={"x": 2}),
        JobResult(id="a-2", state=State.DONE, parameters={"x": 3}, results={"loss": float("nan"), "l": [1]}),
    ]
    headings, rows = table_of(results)
    assert headings == ["job", "state", "x", "loss", "result.x", "l"]
    assert rows[0] == ["a-0", "done", "1", "2.5", "y", ""]
    assert rows[1] == ["a-1", "failed (memory)", "2", "", "", ""]
    assert best_of(results, "max:loss").id == "a-0"
    for wrong in ("loss", "min:nothing"):
        with pytest.raises(InvalidRequest):
            best_of(results, wrong)
