"""The grid within a gridcloud: closed until somebody begins, and a clear word where a setting is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gridcloud.errors import InvalidSettings, PortTaken
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile


async def _open(tmp_path: Path, text: str) -> House:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    return await House.open(SettingsFile(path), data)


async def test_no_port_is_open_until_begun(tmp_path: Path) -> None:
    text = "grid: {listen: '127.0.0.1:0', addresses: ['https://127.0.0.1:0']}"
    house = await _open(tmp_path, text)
    try:
        assert house.office.doorway.port == 0
        assert not list((tmp_path / "data").glob("grid/root.pem"))
        await house.office.init("Alpha")
        assert house.office.doorway.port > 0
        port = house.office.doorway.port
    finally:
        await house.close()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
    house = await _open(tmp_path, text)
    try:
        assert house.office.name == "Alpha"
        assert house.office.doorway.port > 0
    finally:
        await house.close()


async def test_taken_port_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    house = await _open(tmp_path, "")
    await house.office.init("Alpha")
    await house.close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=r"grid\.listen"):
            await _open(tmp_path, f"grid: {{listen: '127.0.0.1:{port}'}}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid: {listen: '8444'}", "listen"),
        ("grid: {listen: 'localhost:99999'}", "65535"),
        ("grid: {addresses: ['http://grid.example.org']}", "addresses"),
        ("grid: {addresses: ['https://grid.example.org']}", "listen"),
        ("grid: {relays: ['somebody']}", "relays"),
        ("grid: {relays_others: true}", "relays_others"),
        ("grid: {port: 1}", "port"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=words):
        SettingsFile(path).current()
