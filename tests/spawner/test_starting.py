"""What keeps a hub from starting is said in a sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gridcloud.errors import Conflict, GridcloudError, PortTaken, Unreachable
from gridcloud.service.process import lock_of
from gridcloud.settings import SettingsFile
from gridcloud.spawner import up
from gridcloud.spawner.hub_files import HubFiles
from gridcloud.spawner.proxy_program import install_proxy
from gridcloud.spawner.up import new_link, running
from gridcloud.store import OwnerLock
from tests.spawner.uphouse import UpHouse


async def test_a_second_one_is_refused(house: UpHouse) -> None:
    with pytest.raises(Conflict, match="runs already"):
        async with running(SettingsFile(house.config), house.data, print):
            pass


async def test_two_at_once_are_one(tmp_path: Path) -> None:
    # The other has not come to start its service: until then only this keeps us from changing its ports.
    with OwnerLock(HubFiles(tmp_path).folder / "up") as other:
        assert other.try_acquire()
        with pytest.raises(Conflict, match="runs already"):
            async with running(SettingsFile(tmp_path / "config.yaml"), tmp_path, print):
                pass
    assert not (tmp_path / "hub" / "ports.json").exists()


async def test_the_end_of_another_owner_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    # Nobody waits that long in a test.
    monkeypatch.setattr(up, "LEAVING", 0.2)
    with lock_of(tmp_path) as owner:
        assert owner.try_acquire()
        with pytest.raises(Conflict, match=f"process {os.getpid()}"):
            async with running(SettingsFile(tmp_path / "config.yaml"), tmp_path, told.append):
                pass
    assert any("waiting for it to end" in line for line in told)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            HubFiles(tmp_path).choose_ports("127.0.0.1", port)


def test_ports_are_those_of_last_time(tmp_path: Path) -> None:
    first = HubFiles(tmp_path).choose_ports("127.0.0.1", 0)
    assert len({first.public, first.hub, first.proxy_api}) == 3
    with socket.socket() as other:
        other.bind(("127.0.0.1", first.hub))
        other.listen()
        second = HubFiles(tmp_path).choose_ports("127.0.0.1", 0)
    assert second.public == first.public
    assert second.hub != first.hub


def test_no_link_without_a_hub(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with pytest.raises(Unreachable, match="No hub runs"):
        new_link(SettingsFile(config), tmp_path)
    config.write_text("hub: {authenticator: pam}\n")
    with pytest.raises(GridcloudError, match="through pam"):
        new_link(SettingsFile(config), tmp_path)


async def test_a_proxy_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NPM_CONFIG_USERCONFIG", "npm_config_userconfig"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    monkeypatch.setenv("NPM_CONFIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(Unreachable, match="configurable-http-proxy"):
        await install_proxy(tmp_path / "proxies")
    assert list((tmp_path / "proxies").iterdir()) == []
