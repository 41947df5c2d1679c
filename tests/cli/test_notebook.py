"""``gridcloud notebook`` and ``notebook_parameterizer``: what people and scripts see."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from gridcloud.cli.notebook_parameterizer import main as prototype
from tests.cli.conftest import Caller


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook without tags."""
    cells = [
        nbformat.v4.new_code_cell(text)
        for text in ("x = 1\nname = 'a'", "x = 2", "print(x, name)", "1 / (x - 9)")
    ]
    path = tmp_path / "a notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def sources(path: Path) -> list[str]:
    """The sources of a notebook's cells."""
    return [cell["source"] for cell in nbformat.read(path, as_version=4)["cells"]]


def test_parameters(call: Caller, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(call("--json", "notebook", "parameters", str(notebook)))["parameters"]
    assert [(one["name"], one["value"]) for one in told] == [("x", "1"), ("name", "'a'")]
    assert "name" in call("notebook", "parameters", str(notebook))

    monkeypatch.setenv("SECRET", "se'cret")
    (tmp_path / "p.yml").write_text("x: 3\nname: ENV_SECRET\n")
    words = ["notebook", "parameterize", str(notebook), str(tmp_path / "p.yml")]
    output = tmp_path / "out.ipynb"
    call(*words, "-e", "-p", "x=[1, 2]", "-o", str(output))
    assert sources(output)[:2] == ['x = [1, 2]\nname = "se\'cret"', "x = 2"]
    call(*words, "-o", str(output), code=2)
    call(*words, "-o", str(output), "--overwrite", "--every")
    assert sources(output)[:2] == ["x = 3\nname = 'ENV_SECRET'", "x = 3"]
    assert json.loads(call(*words))["cells"][1]["source"] in ("x = 2", ["x = 2"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parameterize", "N", "-p", "y=1"], "no parameter 'y'"),
        (["parameterize", "N", "-p", "x"], "Write NAME=VALUE"),
        (["parameterize", "N", "-p", "x=[1"], "no YAML"),
        (["parameterize", "missing.ipynb"], "cannot be read"),
        (["run", "N"], "Add: --output FILE"),
        (["run", "N", "-o", "out.ipynb", "--timeout", "soon"], "--timeout: 'soon' is not a time"),
        (["run", "N", "-o", "own.ipynb"], "is no output of a run"),
    ],
)
def test_refused(call: Caller, notebook: Path, words: list[str], said: str) -> None:
    before = notebook.read_bytes()
    (notebook.parent / "own.ipynb").write_bytes(before)
    code = 3 if "missing.ipynb" in words else 2
    call("notebook", *[str(notebook) if word == "N" else word for word in words], code=code)
    assert said in call.err
    assert notebook.read_bytes() == before


@pytest.mark.timeout(100)
def test_run_and_view(call: Caller, notebook: Path, tmp_path: Path) -> None:
    output, page = str(tmp_path / "out.ipynb"), tmp_path / "out.html"
    call("notebook", "run", str(notebook), "--every", "-p", "x=9", "-o", output, code=70)
    assert "error: cell 4 of" in call.err
    assert "ZeroDivisionError: division by zero" in call.err
    call("notebook", "view", output, "-o", str(page))
    assert "9 a" in page.read_text()
    assert "ZeroDivisionError" in page.read_text()
    assert "<script" not in page.read_text()


def test_prototype(notebook: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As scripts have it: NBP-02, 03, 15 and 20 of its cases."""
    (tmp_path / "p.yml").write_text("x: 3\nnobody: 1\n")
    output = tmp_path / "out.ipynb"
    words = [str(notebook), str(tmp_path / "p.yml")]
    assert prototype([*words, "-o", str(output)]) == 0
    assert sources(output) == ["x = 3\nname = 'a'", "x = 3", "print(x, name)", "1 / (x - 9)"]
    assert "warning: The notebook has no parameter 'nobody'" in capfd.readouterr().err
    assert prototype([*words, "--output_notebook_path", str(output), "--strict"]) == 2
    assert prototype([*words, "--first"]) == 0
    assert "x = 2" in capfd.readouterr().out
    (tmp_path / "p.yml").write_text("x: ENV_NOT_SET_ANYWHERE\n")
    assert prototype([*words, "-e", "-o", str(output)]) == 2
    assert "NOT_SET_ANYWHERE, which is not set" in capfd.readouterr().err
