"""Drivers by entry point: found without an import, and a broken one breaks only itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gridcloud import plugins
from gridcloud.errors import DriverUnavailable
from tests.unit.distributions import write_distribution

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution that brings drivers of the kind `probes`."""

    def install(name: str, points: dict[str, str], modules: dict[str, str], requires: str = "") -> None:
        folder = write_distribution(tmp_path, name, "probes", points, modules, requires)
        for module in modules:
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(folder)

    return install


def test_ours_are_found_with_their_distribution() -> None:
    found = plugins.names("instances")
    assert {"local", "container", "ssh", "fake"} <= set(found)
    assert found["local"].startswith("gridcloud ")
    assert plugins.names("no-such-kind") == {}


def test_naming_imports_nothing_and_loading_gives_the_class(install: Install) -> None:
    install("far", {"far": "probe_far:Driver"}, {"probe_far": "class Driver: pass"})
    assert plugins.names("probes") == {"far": "far 1.2"}
    assert "probe_far" not in sys.modules
    assert plugins.load("probes", "far").__name__ == "Driver"


def test_an_unknown_name_tells_the_nearest(install: Install) -> None:
    install("far", {"container": "probe_far:Driver"}, {})
    with pytest.raises(DriverUnavailable) as failure:
        plugins.load("probes", "contianer")
    assert "installed are: container" in failure.value.message
    assert failure.value.remedy == "Did you mean 'container'?"
    with pytest.raises(DriverUnavailable, match="installed are: none"):
        plugins.load("no-such-kind", "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('out of cheese')", "RuntimeError: out of cheese"),
        ("class Other: pass", "AttributeError"),
        ("def Driver(: pass", "SyntaxError"),
        ("Driver = 7", "is no class"),
    ],
)
def test_a_broken_driver_breaks_only_itself(install: Install, text: str, said: str) -> None:
    install("bad", {"bad": "probe_bad:Driver"}, {"probe_bad": text})
    install("good", {"good": "probe_good:Driver"}, {"probe_good": "class Driver: pass"})
    with pytest.raises(DriverUnavailable, match="'bad'") as failure:
        plugins.load("probes", "bad")
    assert said in str(failure.value)
    assert "bad 1.2" in str(failure.value)
    assert plugins.load("probes", "good")


def test_a_missing_library_names_the_extra_that_brings_it(install: Install) -> None:
    install(
        "cloudy",
        {"cloudy": "probe_cloudy:Driver"},
        {"probe_cloudy": "import some_cloud_sdk.client"},
        'Provides-Extra: oci\nRequires-Dist: some-cloud.sdk>=2; extra == "oci"\n',
    )
    with pytest.raises(DriverUnavailable) as failure:
        plugins.load("probes", "cloudy")
    assert failure.value.remedy == "Run: pip install 'cloudy[oci]'"


def test_our_own_extras_are_known(install: Install) -> None:
    install(
        "plain",
        {"plain": "probe_plain:Driver"},
        {"probe_plain": "raise ModuleNotFoundError('x', name='docker.api')"},
    )
    with pytest.raises(DriverUnavailable) as failure:
        plugins.load("probes", "plain")
    assert failure.value.remedy == "Run: pip install 'gridcloud[docker]'"


def test_a_missing_library_nobody_declared_is_named(install: Install) -> None:
    install("plain", {"plain": "probe_none:Driver"}, {"probe_none": "import no_such_module_at_all.sub"})
    with pytest.raises(
        DriverUnavailable, match="Install what provides the Python module 'no_such_module_at_all'"
    ):
        plugins.load("probes", "plain")


def test_a_name_claimed_twice_is_refused_until_one_goes(install: Install) -> None:
    for name in ("one", "two"):
        install(name, {"same": "probe_same:Driver"}, {"probe_same": "class Driver: pass"})
    with pytest.raises(DriverUnavailable, match=r"claimed by (one 1.2 and two 1.2|two 1.2 and one 1.2)"):
        plugins.load("probes", "same")
