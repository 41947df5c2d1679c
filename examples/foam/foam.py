"""Count and measure the pores of an aluminium foam in a computed-tomography (CT) image.

The image is simulated, so the true pores are known and the result can be judged:

1. :func:`make_phantom` packs spherical pores into a box of aluminium and images it with blur and noise.
2. :func:`check_porosity` fits two Gaussians to the grey values; a foam with too little air is discarded.
3. :func:`segment_foam` tells air from aluminium: median filter, Otsu threshold, binary closing.
4. :func:`separate_pores` parts touching pores by a watershed on the distance to the aluminium.
5. :func:`measure_foam` compares found and true pores; :func:`plot_foam` draws them.

Lengths are in voxels, grey values run from 0 (air) to 1 (aluminium). Run ``python3 foam.py --help`` for the
command line, or open ``foam.ipynb``, which calls the same functions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap, hsv_to_rgb
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from scipy import ndimage
    from scipy.spatial import cKDTree
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed
    from sklearn.mixture import GaussianMixture
except ModuleNotFoundError as missing:
    sentence = (
        f"foam: the package {missing.name!r} is missing; install what the foam example needs with: "
        f"{sys.executable} -m pip install numpy scipy scikit-image scikit-learn matplotlib"
    )
    if __name__ == "__main__":
        raise SystemExit(sentence) from None
    raise ImportError(sentence, name=missing.name) from None

__all__ = [
    "FoamError",
    "Parameters",
    "Phantom",
    "PorosityCheck",
    "analyse_foam",
    "check_porosity",
    "main",
    "make_phantom",
    "measure_foam",
    "plot_foam",
    "result_line",
    "save_foam",
    "segment_foam",
    "separate_pores",
]

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

RESULT_PREFIX = "FOAM-RESULT "
WALL = 0.5
"""Thinnest aluminium between two pores, and between a pore and the side of the box: no pore is ever cut."""
RADIUS_SPREAD = 0.4
"""Standard deviation of the logarithm of the pore radii."""
SMALLEST_PORE = 0.5
"""Radius of the smallest pore, as a share of the usual one."""
SEPARATION = 2.0
"""Ashman's D above which two Gaussians count as two materials and not as one split in halves."""
INK, FOUND, TRUE = "#22303c", "#2a78b8", "#e08a1e"


class FoamError(ValueError):
    """A parameter no foam can be made or analysed with; the message names it and what to do."""


@dataclass(frozen=True)
class Parameters:
    """What to simulate and how to analyse it. Raises FoamError for values out of range."""

    size: int = field(default=112, metadata={"help": "edge of the box in voxels, 24 to 512"})
    porosity: float = field(
        default=0.45, metadata={"help": "wanted share of air in the box, above 0 and below 1"}
    )
    pore_radius: float = field(
        default=9.0, metadata={"help": "usual (median) radius of a pore in voxels, 4 to 64"}
    )
    noise: float = field(
        default=0.15, metadata={"help": "standard deviation of the grey-value noise, 0 to 1"}
    )
    blur: float = field(default=0.7, metadata={"help": "standard deviation of the blur in voxels, 0 to 4"})
    seed: int = field(default=7, metadata={"help": "seed of everything random, 0 or more"})
    kernel_size: int = field(default=3, metadata={"help": "edge of the median filter in voxels, 1 to 9"})
    threshold: float = field(
        default=0.25, metadata={"help": "porosity below which a foam is discarded, 0 to 1"}
    )

    def __post_init__(self) -> None:
        limits = {
            "size": (24, 512),
            "pore_radius": (4, 64),
            "noise": (0, 1),
            "blur": (0, 4),
            "seed": (0, 2**63 - 1),
            "kernel_size": (1, 9),
            "threshold": (0, 1),
        }
        for name in ("size", "seed", "kernel_size"):
            if not isinstance(getattr(self, name), int):
                raise FoamError(f"{name} is {getattr(self, name)!r}; give a whole number")
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise FoamError(f"{name} is {getattr(self, name)}; give a value from {low} to {high}")
        if not 0 < self.porosity < 1:
            raise FoamError(
                f"porosity is {self.porosity}; give a share of air above 0 and below 1, such as 0.4"
            )
        if 2 * (self.pore_radius + WALL) > self.size:
            raise FoamError(
                f"pore_radius {self.pore_radius} does not fit a box of {self.size} voxels; "
                f"give a radius of at most {self.size / 2 - WALL:g} or a larger size"
            )


@dataclass(frozen=True)
class Phantom:
    """A simulated CT image with the truth it was made from."""

    image: Grey
    """Grey values, shape (size, size, size)."""
    centres: NDArray[np.float64]
    """Centres of the true pores in voxels, shape (pores, 3); the first voxel's centre lies at 0.5."""
    radii: NDArray[np.float64]
    """Radii of the true pores in voxels, shape (pores,)."""
    porosity: float
    """True share of air in the box."""


@dataclass(frozen=True)
class PorosityCheck:
    """Two Gaussians fitted to a sample of grey values; index 0 is air, 1 is aluminium."""

    means: tuple[float, float]
    deviations: tuple[float, float]
    weights: tuple[float, float]
    porosity: float
    """Estimated share of air; 0 where the two Gaussians are not two materials."""
    reason: str | None
    """Why the foam is discarded; None where it is accepted."""

    @property
    def accepted(self) -> bool:
        """Whether there is enough air for an analysis of the pores."""
        return self.reason is None


def analyse_foam(parameters: Parameters) -> tuple[dict[str, Any], Figure]:
    """Simulate a foam, analyse it, and return the result (JSON-sized) with its figure.

    A foam discarded by the porosity check is a result too: ``accepted`` is False and ``found_pores`` None.
    Raises FoamError where the wanted porosity cannot be packed.
    """
    phantom = make_phantom(parameters)
    check = check_porosity(phantom.image, parameters.threshold, parameters.seed)
    labels = None
    if check.accepted:
        air = segment_foam(phantom.image, parameters.kernel_size)
        labels = separate_pores(air, parameters.pore_radius)
    result = measure_foam(parameters, phantom, check, labels)
    return result, plot_foam(phantom, check, labels, result)


def make_phantom(parameters: Parameters) -> Phantom:
    """Pack non-overlapping spherical pores, all wholly inside the box, and image them.

    The same parameters give the same phantom. Raises FoamError where the wanted porosity cannot be packed.
    """
    rng = np.random.default_rng(parameters.seed)
    centres, radii, lacking = _pack_pores(parameters, rng)
    if lacking:
        raise FoamError(
            f"porosity {parameters.porosity:g} cannot be packed with round pores of radius "
            f"{parameters.pore_radius:g} in a box of {parameters.size} voxels; "
            f"ask for at most {_find_packable(parameters, lacking):.2f}"
        )
    air = _draw_pores(parameters.size, centres, radii)
    porosity = float(air.mean(dtype=np.float64))
    image = np.subtract(1, air, out=air)
    if parameters.blur:
        image = ndimage.gaussian_filter(image, parameters.blur, mode="nearest")
    if parameters.noise:
        image += np.float32(parameters.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return Phantom(image, centres, radii, porosity)


def check_porosity(image: Grey, threshold: float, seed: int, samples: int = 10_000) -> PorosityCheck:
    """Estimate the share of air by two Gaussians fitted to a random sample of the grey values.

    The foam is accepted where the estimate reaches `threshold`.
    """
    values = np.random.default_rng(seed).choice(image.ravel(), min(samples, image.size))
    # Starting at the ends keeps the fit from halving the aluminium where air is rare.
    ends = np.quantile(values, (0.001, 0.999)).reshape(2, 1)
    mixture = GaussianMixture(2, means_init=ends, random_state=seed, reg_covar=1e-5, max_iter=300)
    mixture.fit(values.reshape(-1, 1).astype(np.float64))
    order = np.argsort(mixture.means_.ravel())
    means = mixture.means_.ravel()[order]
    variances = mixture.covariances_.ravel()[order]
    weights = mixture.weights_[order]
    # Ashman's D (Ashman, Bird and Zepf 1994) tells two materials from one whose noise was split in two.
    separation = math.sqrt(2) * (means[1] - means[0]) / math.sqrt(variances.sum())
    porosity, reason = float(weights[0]), None
    if separation <= SEPARATION:
        porosity, reason = 0.0, "air and aluminium cannot be told apart: too much noise, or hardly any air"
    elif porosity < threshold:
        reason = f"porosity {porosity:.3f} is below {threshold:g}"
    deviations = np.sqrt(variances)
    return PorosityCheck(
        (float(means[0]), float(means[1])),
        (float(deviations[0]), float(deviations[1])),
        (float(weights[0]), float(weights[1])),
        porosity,
        reason,
    )


def segment_foam(image: Grey, kernel_size: int) -> Mask:
    """Return where the image shows air: median filter, Otsu threshold, closing of single voxels."""
    smooth = ndimage.median_filter(image, kernel_size)
    air = smooth <= threshold_otsu(smooth)
    # Repeating the sides keeps the closing from eating air there.
    closed = ndimage.binary_closing(np.pad(air, 1, mode="edge"))
    return np.asarray(closed[1:-1, 1:-1, 1:-1], dtype=np.bool_)


def separate_pores(air: Mask, pore_radius: float) -> Labels:
    """Number the pores from 1 (0 is aluminium) by a watershed on the distance to the aluminium.

    Seeds are the peaks of the smoothed distance, at least the smallest pore's radius apart; air with no peak
    as deep as half of that radius is noise and belongs to no pore.
    """
    smallest = SMALLEST_PORE * pore_radius
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(air).astype(np.float32), 1.0)
    peaks = peak_local_max(
        distance,
        min_distance=max(1, round(smallest)),
        threshold_abs=smallest / 2,
        exclude_border=False,
        labels=air,
    )
    markers = np.zeros(air.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, markers, mask=air), dtype=np.int32)


def measure_foam(
    parameters: Parameters, phantom: Phantom, check: PorosityCheck, labels: Labels | None
) -> dict[str, Any]:
    """Return found beside true: pores, porosity and radii; `labels` is None for a discarded foam.

    ``matched_pores`` counts found pores that lie on a true one of their own, so that a pore split in two
    cannot make up for one that was missed. Radii are those of balls of the pores' volumes.
    """
    result: dict[str, Any] = {
        "accepted": check.accepted,
        "reason": check.reason,
        "true_pores": len(phantom.radii),
        "found_pores": None,
        "matched_pores": None,
        "porosity_true": round(phantom.porosity, 4),
        "porosity_estimated": round(check.porosity, 4),
        "porosity_found": None,
        "mean_radius_true": round(float(phantom.radii.mean()), 3),
        "mean_radius_found": None,
        "radii": [],
        "parameters": asdict(parameters),
    }
    if labels is None:
        return result
    volumes = np.bincount(labels.ravel())[1:]
    radii = np.cbrt(volumes * 3 / (4 * np.pi))
    result["found_pores"] = len(radii)
    result["matched_pores"] = _count_matches(phantom, labels, len(radii))
    result["porosity_found"] = round(float(volumes.sum() / labels.size), 4)
    if len(radii):
        result["mean_radius_found"] = round(float(radii.mean()), 3)
    result["radii"] = [round(float(radius), 3) for radius in np.sort(radii)]
    return result


def plot_foam(
    phantom: Phantom, check: PorosityCheck, labels: Labels | None, result: dict[str, Any]
) -> Figure:
    """Draw slices through the foam, its grey values with the fitted Gaussians, and the pore radii.

    Of a discarded foam there is only the image and the porosity check to draw.
    """
    rows = 1 if labels is None else 2
    figure = Figure(figsize=(4.4 * (rows + 1), 4.4 * rows), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, rows + 1, squeeze=False)
    middle = phantom.image.shape[0] // 2
    _show_image(axes[0, 0], phantom.image[middle])
    _show_grey_values(axes[0, 1], phantom, check)
    if labels is None:
        title = f"discarded, {check.reason}"
    else:
        title = f"{result['found_pores']} pores found, {result['true_pores']} true"
        _show_air(axes[0, 2], labels[middle] > 0)
        _show_pores(axes[1, 0], labels, middle, 0, "4  Pores separated by watershed")
        _show_pores(axes[1, 1], labels, middle, 1, "5  Pores in a slice across")
        _show_radii(axes[1, 2], phantom, result)
    figure.suptitle(f"Aluminium foam: {title}", fontsize=16 if rows == 2 else 12, color=INK)
    return figure


def save_foam(result: dict[str, Any], figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Write ``foam.json`` and ``foam.png`` into `folder`, made if absent, and return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    document, picture = folder / "foam.json", folder / "foam.png"
    document.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    figure.savefig(picture, dpi=100)
    return document, picture


def result_line(result: dict[str, Any]) -> str:
    """Return the one line, ``FOAM-RESULT`` and JSON, by which a program reads the result from the output."""
    return RESULT_PREFIX + json.dumps(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done (also for a discarded foam), 1 cannot write, 2 bad parameters."""
    parser = argparse.ArgumentParser(
        prog="foam.py",
        description="Simulate an aluminium foam, find its pores, write foam.json and foam.png.",
    )
    for parameter in fields(Parameters):
        kind = type(parameter.default)
        option = "--" + parameter.name.replace("_", "-")
        text = f"{parameter.metadata['help']} (default {parameter.default})"
        parser.add_argument(
            option, type=kind, default=parameter.default, metavar=kind.__name__.upper(), help=text
        )
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="where to write (default here)"
    )
    chosen = vars(parser.parse_args(arguments))
    folder = chosen.pop("output")
    try:
        result, figure = analyse_foam(Parameters(**chosen))
        document, picture = save_foam(result, figure, folder)
    except FoamError as error:
        print(f"foam: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"foam: cannot write to {folder}: {error.strerror}; choose another --output", file=sys.stderr)
        return 1
    if result["accepted"]:
        print(
            f"{result['found_pores']} pores found, {result['true_pores']} true; see {picture} and {document}"
        )
    else:
        print(f"foam discarded: {result['reason']}; see {picture} and {document}")
    print(result_line(result))
    return 0


def _pack_pores(
    parameters: Parameters, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Place balls, the largest first, at random points with room for them, until the porosity is reached.

    Returns their centres and radii, and the porosity that is lacking when there is no more room.
    """
    size = parameters.size
    smallest = SMALLEST_PORE * parameters.pore_radius
    wanted = parameters.porosity * size**3
    pending = _draw_radii(parameters, wanted, rng)
    points = rng.uniform(WALL + smallest, size - WALL - smallest, (min(60_000, size**3 // 8), 3))
    room = np.minimum(points, size - points).min(axis=1) - WALL
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    left = wanted
    # Half a smallest pore more or less is as near to the wanted porosity as pores come.
    while not radii or left > _volume(smallest) / 2:
        if len(radii) < len(pending):
            radius = float(pending[len(radii)])
        else:
            radius = max(smallest, (left * 3 / (4 * math.pi)) ** (1 / 3))
        places = np.flatnonzero(room >= radius)
        place = int(rng.choice(places)) if len(places) else int(room.argmax())
        radius = min(radius, float(room[place]))
        if radius < smallest:
            break
        centres.append(points[place])
        radii.append(radius)
        left -= _volume(radius)
        room = np.minimum(room, np.linalg.norm(points - points[place], axis=1) - radius - WALL)
    enough = left <= max(0.01 * wanted, _volume(smallest))
    return np.array(centres), np.array(radii), 0.0 if enough else left / size**3


def _find_packable(parameters: Parameters, lacking: float) -> float:
    """Return a lower porosity, in hundredths, that the same box, pores and seed can be packed to."""
    porosity = parameters.porosity
    while lacking and porosity > 0.01:
        porosity = max(math.floor(100 * (porosity - lacking)) / 100, 0.01)
        rng = np.random.default_rng(parameters.seed)
        *_, lacking = _pack_pores(replace(parameters, porosity=porosity), rng)
    return porosity


def _draw_radii(parameters: Parameters, wanted: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw log-normal radii whose volumes sum up to at most `wanted`, in falling order."""
    smallest = SMALLEST_PORE * parameters.pore_radius
    largest = min(2 * parameters.pore_radius, parameters.size / 2 - WALL)
    count = math.ceil(wanted / _volume(smallest))
    radii = np.clip(rng.lognormal(math.log(parameters.pore_radius), RADIUS_SPREAD, count), smallest, largest)
    within = np.cumsum(4 / 3 * np.pi * radii**3) <= wanted
    return np.sort(radii[within])[::-1]


def _volume(radius: float) -> float:
    return 4 / 3 * math.pi * radius**3


def _draw_pores(size: int, centres: NDArray[np.float64], radii: NDArray[np.float64]) -> Grey:
    """Return each voxel's share of air, smooth over one voxel at the pores' surfaces."""
    air = np.zeros((size, size, size), dtype=np.float32)
    for centre, radius in zip(centres, radii, strict=True):
        low = np.maximum(np.floor(centre - radius - 1).astype(int), 0)
        high = np.minimum(np.ceil(centre + radius + 1).astype(int), size)
        offsets = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        squares = sum((axis + 0.5 - middle) ** 2 for axis, middle in zip(offsets, centre, strict=True))
        window = air[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        np.maximum(window, np.clip(radius - np.sqrt(squares) + 0.5, 0, 1), out=window, casting="same_kind")
    return air


def _count_matches(phantom: Phantom, labels: Labels, count: int) -> int:
    if not count:
        return 0
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, count + 1))) + 0.5
    distances, nearest = cKDTree(phantom.centres).query(centres)
    near = distances < phantom.radii[nearest] / 2
    return len(np.unique(nearest[near]))


def _show_image(axes: Any, image: Grey) -> None:
    _frame(axes, "1  CT image, middle slice", f"{image.shape[1]} voxels")
    axes.imshow(image, cmap="gray", vmin=-0.3, vmax=1.3, interpolation="nearest")


def _show_air(axes: Any, air: Mask) -> None:
    _frame(axes, "3  Segmented: air is white")
    axes.imshow(air, cmap="gray", interpolation="nearest")


def _show_pores(axes: Any, labels: Labels, middle: int, across: int, title: str) -> None:
    _frame(axes, title)
    # Random hue, saturation and brightness set neighbours apart; the first colour is aluminium.
    count = int(labels.max())
    pores = hsv_to_rgb(np.random.default_rng(0).uniform((0, 0.35, 0.65), (1, 0.9, 1), (count, 3)))
    colours = ListedColormap(np.vstack([(0.09, 0.12, 0.15), pores]))
    plane = labels.take(middle, axis=across)
    axes.imshow(plane, cmap=colours, vmin=0, vmax=max(count, 1), interpolation="nearest")


def _frame(axes: Any, title: str, below: str = "") -> None:
    axes.set_title(title, color=INK)
    axes.set_xlabel(below, color=INK)
    axes.set(xticks=[], yticks=[], box_aspect=1)
    axes.spines[:].set_color("#c3ccd4")


def _show_grey_values(axes: Any, phantom: Phantom, check: PorosityCheck) -> None:
    axes.hist(phantom.image.ravel(), bins=120, density=True, color="#c3ccd4", label="grey values")
    low, high = np.quantile(phantom.image, (0.0005, 0.9995))
    grey = np.linspace(low, high, 400)
    for name, colour, mean, deviation, weight in zip(
        ("air", "aluminium"), (FOUND, TRUE), check.means, check.deviations, check.weights, strict=True
    ):
        bell = weight * np.exp(-(((grey - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
        axes.plot(grey, bell, color=colour, linewidth=2, label=f"{name}: {weight:.2f}")
    axes.set_title(
        f"2  Porosity {check.porosity:.2f} by two Gaussians ({phantom.porosity:.2f} true)", color=INK
    )
    axes.set_xlabel("grey value")
    axes.set_ylabel("density")
    _tidy(axes)


def _show_radii(axes: Any, phantom: Phantom, result: dict[str, Any]) -> None:
    radii = np.concatenate([phantom.radii, result["radii"]])
    bins = np.linspace(math.floor(radii.min()), math.ceil(radii.max()) + 0.5, 28)
    found, true = f"found: {result['found_pores']}", f"true: {result['true_pores']}"
    axes.hist(result["radii"], bins=bins, color=FOUND, alpha=0.75, label=found)
    axes.hist(phantom.radii, bins=bins, histtype="step", color=TRUE, linewidth=2, label=true)
    axes.set_title("6  Radii of the pores", color=INK)
    axes.set_xlabel("radius (voxels)")
    axes.set_ylabel("pores")
    axes.yaxis.get_major_locator().set_params(integer=True)
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_box_aspect(0.9)
    axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
