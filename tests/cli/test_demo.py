"""`gridcloud demo`, from end to end on this computer."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from gridcloud.cli.demo import PACKAGES, example_folder
from tests.cli.conftest import Program


@pytest.mark.timeout(240)  # a hub, its proxy fetched anew, and a notebook
@pytest.mark.skipif(any(find_spec(name) is None for name in PACKAGES), reason="needs gridcloud[examples]")
def test_foam_comes_back(program: Program) -> None:
    done = program.run("demo", "--on", "here", "--json", seconds=200)
    document = json.loads(done.stdout)
    assert document["provider"] == "here"
    assert document["found_pores"] > 0
    assert abs(document["found_pores"] - document["true_pores"]) <= 0.05 * document["true_pores"]
    folder = program.folder / "gridcloud-demo"
    assert (folder / "foam.png").read_bytes().startswith(b"\x89PNG")
    cells = [cell for cell in nbformat.read(folder / "foam.ipynb", 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not list(Path.home().glob("gridcloud-demo-*"))


def test_example_is_found_and_whole() -> None:
    folder = example_folder()
    assert {"foam.ipynb", "foam.py"} <= {path.name for path in folder.iterdir()}
