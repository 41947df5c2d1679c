"""The foam example: the same seed gives the same foam, found agrees with true, mistakes get one clear line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import foam
    import numpy as np

FOLDER = Path(__file__).parents[2] / "examples" / "foam"


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """Import them for these tests alone: they take seconds, also of those who only collect."""
    for name in ("skimage", "sklearn"):
        pytest.importorskip(
            name, reason="needs the foam packages: pip install scikit-image scikit-learn matplotlib"
        )
    sys.path.insert(0, str(FOLDER))
    globals().update({"foam": importlib.import_module("foam"), "np": importlib.import_module("numpy")})


SMALL: dict[str, Any] = {"size": 64, "porosity": 0.4, "pore_radius": 8.0}


def small(**changes: float) -> foam.Parameters:
    return foam.Parameters(**{**SMALL, **changes})


def test_a_seed_gives_one_phantom() -> None:
    first, again, other = (foam.make_phantom(small(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.centres, again.centres)
    assert not np.array_equal(first.image, other.image)


def test_pores_are_apart_and_inside() -> None:
    phantom = foam.make_phantom(small(seed=4))
    assert phantom.porosity == pytest.approx(0.4, abs=0.01)
    assert (phantom.centres - phantom.radii[:, None]).min() > 0
    assert (phantom.centres + phantom.radii[:, None]).max() < 64
    gaps = np.linalg.norm(phantom.centres[:, None] - phantom.centres[None], axis=2)
    gaps -= phantom.radii[:, None] + phantom.radii[None]
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() >= foam.WALL - 1e-9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_found_agrees_with_true(seed: int) -> None:
    """Pores within 5 %, nearly all on a true pore of their own, porosity within 0.03, mean radius within 5 %."""
    result, _ = foam.analyse_foam(small(seed=seed))
    assert result["accepted"]
    assert result["found_pores"] == pytest.approx(result["true_pores"], rel=0.05)
    assert result["matched_pores"] >= 0.95 * result["true_pores"]
    assert result["porosity_estimated"] == pytest.approx(result["porosity_true"], abs=0.03)
    assert result["porosity_found"] == pytest.approx(result["porosity_true"], abs=0.03)
    assert result["mean_radius_found"] == pytest.approx(result["mean_radius_true"], rel=0.05)
    assert len(result["radii"]) == result["found_pores"]


def test_touching_pores_need_the_watershed() -> None:
    """The segmented air hangs together in fewer pieces than there are pores: the separation does real work."""
    from scipy import ndimage

    phantom = foam.make_phantom(small(seed=1))
    air = foam.segment_foam(phantom.image, 3)
    assert ndimage.label(air)[1] < len(phantom.radii) / 2
    assert foam.separate_pores(air, 8.0).max() == pytest.approx(len(phantom.radii), rel=0.05)


def test_a_pore_split_in_two_matches_once() -> None:
    parameters = small(seed=1, noise=0, blur=0)
    phantom = foam.make_phantom(parameters)
    check = foam.check_porosity(phantom.image, 0.25, 1)
    labels = foam.separate_pores(foam.segment_foam(phantom.image, 1), 8.0)
    whole = foam.measure_foam(parameters, phantom, check, labels)
    pore = labels[tuple(phantom.centres[0].astype(int))]
    upper = (labels == pore) & (np.arange(64)[:, None, None] < phantom.centres[0][0])
    labels[upper] = labels.max() + 1
    split = foam.measure_foam(parameters, phantom, check, labels)
    assert split["found_pores"] == whole["found_pores"] + 1
    assert split["matched_pores"] <= whole["matched_pores"]


def test_too_little_air_is_discarded() -> None:
    result, figure = foam.analyse_foam(small(porosity=0.1, threshold=0.25))
    assert not result["accepted"]
    assert result["reason"].startswith("porosity 0.")
    assert result["reason"].endswith("below 0.25")
    assert result["found_pores"] is None
    assert result["radii"] == []
    assert len(figure.axes) == 2


def test_noise_that_hides_the_pores_is_named() -> None:
    result, _ = foam.analyse_foam(small(noise=1.0))
    assert not result["accepted"]
    assert "cannot be told apart" in result["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--porosity", "-0.2"], "porosity is -0.2; give a share of air above 0"),
        (["--porosity", "nan"], "porosity is nan"),
        (["--porosity", "0.99", "--size", "48"], "porosity 0.99 cannot be packed"),
        (["--size", "0"], "size is 0; give a value from 24 to 512"),
        (["--noise", "nan"], "noise is nan"),
        (["--kernel-size", "0"], "kernel_size is 0"),
        (["--pore-radius", "30", "--size", "32"], "does not fit a box of 32 voxels"),
    ],
)
def test_a_bad_parameter_is_one_line_and_exit_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert foam.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [24, 64])
def test_the_advised_porosity_can_be_packed(size: int) -> None:
    with pytest.raises(foam.FoamError, match="cannot be packed") as refusal:
        foam.make_phantom(small(porosity=0.9, size=size))
    advised = float(str(refusal.value).rsplit(" ", 1)[1])
    assert foam.make_phantom(small(porosity=advised, size=size)).porosity == pytest.approx(advised, abs=0.02)


def test_a_size_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(foam.FoamError, match=r"size is 64\.5; give a whole number"):
        small(size=64.5)


def test_an_output_that_is_a_file_is_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    assert foam.main(["--size", "48", "--porosity", "0.3", "--output", str(taken)]) == 1
    assert f"cannot write to {taken}" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    """A package that cannot be found: here, one shadowed by a module that says so."""
    (tmp_path / "skimage.py").write_text("raise ModuleNotFoundError('absent', name='skimage')\n")
    run = subprocess.run(
        [sys.executable, FOLDER / "foam.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "the package 'skimage' is missing" in run.stderr
    assert "-m pip install numpy scipy scikit-image scikit-learn matplotlib" in run.stderr
    assert run.stderr.count("\n") == 1


async def test_the_notebook_gives_what_the_script_gives(tmp_path: Path) -> None:
    """The notebook runs in a kernel whose folder holds only the two files, and leaves the same result."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    (tmp_path / "foam.py").write_bytes((FOLDER / "foam.py").read_bytes())
    notebook = nbformat.read(FOLDER / "foam.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    names: dict[str, Any] = {}
    exec(cell.source, names)  # noqa: S102 - our own notebook
    defaults = {name: value for name, value in names.items() if not name.startswith("__")}
    assert defaults.pop("output") == "."
    assert foam.Parameters(**defaults) == foam.Parameters()

    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in SMALL.items())
    client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    await client.async_execute()
    last = notebook.cells[-1].outputs
    line = "".join(output.text for output in last if output.output_type == "stream").splitlines()[-1]
    assert line.startswith(foam.RESULT_PREFIX)
    assert any("image/png" in output.get("data", {}) for output in last)
    assert (tmp_path / "foam.png").stat().st_size > 10_000

    script = tmp_path / "script"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert foam.main([*options, "--output", str(script)]) == 0
    expected = json.loads((script / "foam.json").read_text())
    assert json.loads(line.removeprefix(foam.RESULT_PREFIX)) == expected
    assert json.loads((tmp_path / "foam.json").read_text()) == expected
