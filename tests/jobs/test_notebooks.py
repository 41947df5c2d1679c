"""Notebooks with parameters, with a tagged cell and without."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from typing import Any

import nbformat
import pytest

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.notebooks import Notebook, expand_environment, find_parameters, parameterize


def notebook(*sources: str, language: str = "python", tagged: int | None = None) -> Notebook:
    """A notebook of these cells, the one of a number tagged."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if tagged is not None:
        cells[tagged]["metadata"]["tags"] = ["parameters"]
    made = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": language}})
    plain: Notebook = json.loads(json.dumps(made))
    return plain


def sources(made: Notebook) -> list[str]:
    """The sources of its cells."""
    nbformat.validate(nbformat.from_dict(made))
    return [cell["source"] for cell in made["cells"]]


def test_which() -> None:
    given = notebook("x = 1", "x = 2", "x = x + 1")
    assert sources(parameterize(given, {"x": 9})) == ["x = 9", "x = 2", "x = x + 1"]
    assert sources(parameterize(given, {"x": 9}, which="all")) == ["x = 9", "x = 9", "x = x + 1"]


def test_derived_values_are_kept() -> None:
    [made] = sources(parameterize(notebook("x = 1\nx = x + 1"), {"x": 9}, which="all"))
    assert made == "x = 9\nx = x + 1"


def test_the_notebook_itself_is_left_alone() -> None:
    given = notebook("x = 1")
    before = copy.deepcopy(given)
    parameterize(given, {"x": 9})
    assert given == before


def test_lines_stay_lines() -> None:
    given = notebook("x = 1\ny = 2\n")
    given["cells"][0]["source"] = ["x = 1\n", "y = 2\n"]
    assert parameterize(given, {"y": "a\nb"})["cells"][0]["source"] == ["x = 1\n", "y = 'a\\nb'\n"]


@pytest.mark.parametrize("tagged", [None, 0])
def test_unknown_parameter(tagged: int | None) -> None:
    with pytest.raises(InvalidRequest, match="no parameter 'energie'") as refused:
        parameterize(notebook("energy = 1", tagged=tagged), {"energie": 2})
    assert refused.value.remedy == "It assigns energy."


def test_tagged_cell() -> None:
    given = notebook("import os", "x = 1\ny = 2", "print(x)", tagged=1)
    made = parameterize(given, {"x": [1, None]})
    assert sources(made) == ["import os", "x = 1\ny = 2", "x = [1, None]", "print(x)"]
    assert made["cells"][2]["metadata"] == {"tags": ["injected-parameters"]}
    assert sources(parameterize(made, {"y": 3}))[2] == "y = 3"  # as papermill: the former ones make room


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("R", 'a = NULL\nb = TRUE\nc = 1.5\nd = "a \\"b\\"\\n$c"\ne = list(1L, list("k" = Inf))'),
        ("julia", 'a = nothing\nb = true\nc = 1.5\nd = "a \\"b\\"\\n\\$c"\ne = [1, Dict("k" => Inf)]'),
    ],
)
def test_other_languages(language: str, expected: str) -> None:
    values = {"a": None, "b": True, "c": 1.5, "d": 'a "b"\n$c', "e": [1, {"k": float("inf")}]}
    assert sources(parameterize(notebook("a = 1", language=language, tagged=0), values))[1] == expected


def test_shell() -> None:
    made = parameterize(notebook("x=1", language="bash", tagged=0), {"x": "a 'b' $(c)"})
    shell = shutil.which("bash") or "sh"
    told = subprocess.run(
        [shell, "-c", sources(made)[1] + '; printf %s "$x"'], capture_output=True, check=True
    )
    assert told.stdout.decode() == "a 'b' $(c)"


@pytest.mark.parametrize(
    ("given", "values", "message"),
    [
        (notebook("x = 1", language="R"), {"x": 1}, "is in r, and no cell"),
        (notebook("x = 1", language="cobol", tagged=0), {"x": 1}, "cobol cannot be given parameters"),
        (notebook("x = 1", language="R", tagged=0), {"x; system('true')": 1}, "is not a parameter's name"),
        (notebook("x=1", language="bash", tagged=0), {"x": [1]}, "numbers and text only"),
        ({"nbformat": 3, "worksheets": []}, {}, "no notebook of format 4"),
    ],
)
def test_refused(given: Notebook, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parameterize(given, values)


def test_a_kernel_without_a_language() -> None:
    given = notebook("x = 1")
    given["metadata"] = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    assert sources(parameterize(given, {"x": 2})) == ["x = 2"]
    given["metadata"] = {}
    assert sources(parameterize(given, {"x": 2})) == ["x = 2"]


def test_found() -> None:
    given = notebook("import os\nx = 1\ny = x + 1", "%%bash\nz=1", "not python at all", "x = 3; name = 'é'")
    assert [(one.name, one.cell, one.line, one.value) for one in find_parameters(given)] == [
        ("x", 0, 2, "1"),
        ("name", 3, 1, "'é'"),
    ]
    tagged = notebook("x = 1", "y = [1,\n 2]", tagged=1)
    assert [(one.name, one.value) for one in find_parameters(tagged)] == [("y", "[1,\n 2]")]


def test_environment() -> None:
    values = {"a": "ENV_KEY", "b": ["ENV_KEY", {"c": 1}], "d": "envelope"}
    assert expand_environment(values, {"KEY": "k"}) == {"a": "k", "b": ["k", {"c": 1}], "d": "envelope"}
    with pytest.raises(InvalidRequest, match="environment variable KEY, which is not set"):
        expand_environment(values, {})
