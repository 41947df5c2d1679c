"""Where bad days happen: on this computer, in a container, on a machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.houses import containers, here, machines
from tests.spawner.conftest import make_house

__all__ = ["anywhere", "elsewhere", "make_house", "opened_anywhere", "opened_elsewhere"]


def _open(request: pytest.FixtureRequest) -> str:
    """Open the lab of a kind before the test begins, for it stays open after it."""
    kind = str(request.param)
    if kind != "local":
        request.getfixturevalue({"ssh": "ssh_lab", "container": "podman_engine"}[kind])
    return kind


def _provider(request: pytest.FixtureRequest, kind: str) -> dict[str, Any]:
    if kind == "ssh":
        return machines(request.getfixturevalue("ssh_machine"))
    return containers(request.getfixturevalue("podman_engine")) if kind == "container" else here()


@pytest.fixture(scope="session", params=["container", "ssh"])
def opened_elsewhere(request: pytest.FixtureRequest) -> str:
    """The kind of a provider that is not this computer."""
    return _open(request)


@pytest.fixture(scope="session", params=["local", "container", "ssh"])
def opened_anywhere(request: pytest.FixtureRequest) -> str:
    """Each kind of a provider."""
    return _open(request)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, opened_elsewhere: str) -> dict[str, Any]:
    """The entry of a provider of containers, and of one of machines."""
    return _provider(request, opened_elsewhere)


@pytest.fixture
def anywhere(request: pytest.FixtureRequest, opened_anywhere: str) -> dict[str, Any]:
    """The entry of a provider of each kind."""
    return _provider(request, opened_anywhere)
