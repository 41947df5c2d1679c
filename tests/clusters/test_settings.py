"""What makes clusters, as it is configured."""

from __future__ import annotations

import pytest

from gridcloud.errors import DriverUnavailable, InvalidSettings
from gridcloud.settings import parse_settings


def test_entries_are_read_by_their_drivers() -> None:
    settings = parse_settings("clusters: {pretend: {driver: fake, nodes: 3}}", "config.yaml", {})
    assert settings.clusters["pretend"].nodes == 3  # type: ignore[union-attr]  # the driver's own
    assert list(settings.providers) == ["local"]
    assert parse_settings("clusters:\n", "config.yaml", {}).clusters == {}


def test_faults_are_told_with_their_place() -> None:
    text = "clusters:\n  pretend: {driver: fake, nods: 3}\n  Other: {driver: fake}\n  third: {}\n"
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(text, "config.yaml", {})
    said = caught.value.message
    assert "config.yaml:2" in said
    assert "did you mean 'nodes'" in said
    assert "clusters.Other" in said
    assert "one of fake" in said


def test_a_driver_that_cannot_be_loaded_breaks_only_itself() -> None:
    text = "clusters:\n  gone: {driver: no-such}\n  pretend: {driver: fake}\n"
    settings = parse_settings(text, "config.yaml", {})
    assert isinstance(settings.clusters["gone"], DriverUnavailable)
    assert not isinstance(settings.clusters["pretend"], DriverUnavailable)
