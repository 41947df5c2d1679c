"""What of the applications travels to a session's machine, and what it says there."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.sessions.model import Plan
from gridcloud.settings import SettingsFile
from gridcloud.settings.apps import AppSettings, check_apps
from gridcloud.spawner.apps import app_environment, app_files, wanted_apps
from gridcloud.spawner.apps.machine import desktop, ports, proxied, rstudio
from gridcloud.spawner.lab import lab_files

OFF = {name: AppSettings(enabled=False) for name in ("desktop", "code", "rstudio", "dask")}

OWN = AppSettings(title="Own", command=("own", "--listen", "{socket}"), is_use=False, new_tab=False)


def test_many_entries_travel_as_far_as_they_may() -> None:
    picture = "<svg>" + "x" * 4000 + "</svg>"
    many = {f"own{number}": OWN.model_copy(update={"icon": picture}) for number in range(7)}
    check_apps(many)
    Plan(words=("x",), files=lab_files() | app_files(many))
    with pytest.raises(ValueError, match="more than 32 KiB"):
        check_apps(many | {"one-more": many["own1"]})


def write(folder: Path, apps: dict[str, AppSettings]) -> Path:
    for path, text in app_files(apps).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder / "apps"


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_they_fit_into_a_plan() -> None:
    Plan(words=("x",), files=lab_files() | app_files({}))


def test_ours_are_changed_and_left_out_by_name() -> None:
    changed = wanted_apps({"code": AppSettings(title="Code"), "dask": AppSettings(enabled=False), "own": OWN})
    assert list(changed) == ["desktop", "code", "rstudio", "own"]
    assert changed["code"].title == "Code"
    assert changed["code"].command[0] == "code-server"
    files = app_files({"dask": AppSettings(enabled=False)})
    assert "apps/dashboards.py" not in files
    assert "apps/desktop.html" in files
    assert app_files(OFF) == app_environment(OFF) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("own: {title: Own, command: [own, '{port}']}", "a port is open to everybody"),
        ("own: {title: Own, command: [own]}", "nothing says where it is to listen"),
        ("own: {title: Own, command: [own, '{socket}', '{home}']}", "{home} is nothing that is filled in"),
        ("own: {command: [own, '{socket}']}", "own: an application of one's own has a title"),
        ("lab: {title: Own, command: [own, '{socket}']}", "lab: this is an address of something else"),
        ("desktop-stream: {title: Own, command: [own, '{socket}']}", "desktop-stream: this is an address of"),
        ("Own: {title: Own, command: [own, '{socket}']}", "Own"),
        ("own: {title: Own, command: [own, '{socket}'], icon: '<script>'}", "no SVG text"),
    ],
)
def test_entries_that_would_not_work_are_refused(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"apps:\n  {text}\n")
    with pytest.raises(InvalidSettings) as caught:
        SettingsFile(config, {}).current()
    assert said in str(caught.value)


def test_the_server_proxies_sockets_only(tmp_path: Path) -> None:
    entries = proxied.entries(write(tmp_path, {"own": OWN}))
    assert list(entries) == ["desktop", "desktop-stream", "code", "rstudio", "dask", "own"]
    for entry in entries.values():
        assert isinstance(entry["unix_socket"], str)
        assert len(entry["unix_socket"]) < 95
        assert "port" not in entry
    assert len({os.path.dirname(entry["unix_socket"]) for entry in entries.values()}) == 1
    assert not os.path.exists(os.path.dirname(entries["own"]["unix_socket"]))
    assert entries["own"]["launcher_entry"] == {"title": "Own", "category": "Notebook"}
    assert (entries["own"]["new_browser_tab"], entries["own"]["update_last_activity"]) == (False, False)
    assert entries["desktop"]["launcher_entry"]["icon_path"] == str(tmp_path / "apps" / "desktop.svg")
    assert entries["desktop-stream"]["launcher_entry"] == {"enabled": False}
    assert json.loads((tmp_path / "apps" / "apps.json").read_text())["code"]["ready"] == "/healthz"


def test_ports_of_others_are_not_passed_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert port not in ports.listening()
        listener.listen()
        assert ports.listening()[port] == {os.geteuid()}
    me = os.geteuid()
    assert proxied.is_ours(80, {80: {me}})
    assert proxied.is_ours(81, {80: {me + 1}})
    assert not proxied.is_ours(80, {80: {me + 1}})
    assert not proxied.is_ours(80, {80: {me, me + 1}})


def test_a_desktop_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRIDCLOUD_NOVNC", "")
    monkeypatch.setattr(desktop, "NOVNC", ())  # what this computer has is none of the test's
    assert [one.partition("Debian: ")[2] for one in desktop.missing()] == [
        "tigervnc-standalone-server)",
        "novnc)",
        "xfce4, or icewm for a small one)",
    ]
    for name in ("Xvnc", "icewm-session", "startxfce4"):
        program(tmp_path, name)
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "rfb.js").touch()
    monkeypatch.setenv("GRIDCLOUD_NOVNC", str(tmp_path))
    assert desktop.missing() == []
    assert desktop.window_manager() == ["startxfce4"]
    (tmp_path / ".vnc").mkdir()
    script = program(tmp_path / ".vnc", "xstartup")
    assert desktop.window_manager() == [str(script)]
    monkeypatch.setenv("GRIDCLOUD_DESKTOP", "icewm-session --nobg")
    assert desktop.window_manager() == ["/bin/sh", "-c", "exec icewm-session --nobg"]


def test_a_gpu_draws_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VGL_DISPLAY", raising=False)
    node = tmp_path / "renderD128"
    monkeypatch.setattr(desktop, "GPUS", (str(tmp_path / "renderD*"),))  # this computer may have one, or not
    node.touch()
    assert desktop.graphics() == []
    program(tmp_path, "vglrun")
    assert desktop.graphics() == ["vglrun", "-d", "egl", "+wm"]
    node.unlink()
    assert desktop.graphics() == []


def test_rstudio_listens_on_a_socket_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rstudio.words("/r", "/s", "/user/ada/rstudio/", Path("/d"))[:4] == [
        "/r",
        "--server-daemonize=0",
        "--www-socket=/s",
        "--www-root-path=/user/ada/rstudio/",
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [str(tmp_path / "s"), "/user/ada/rstudio/"]
    assert rstudio.main(arguments) == 69
    program(tmp_path, "rserver", "echo --www-port --www-address")
    assert rstudio.main(arguments) == 69
    assert "listens on ports only" in capsys.readouterr().err


def test_its_own_files_are_private(tmp_path: Path) -> None:
    cookie = tmp_path / "auth"
    desktop.write_cookie(str(cookie))
    assert stat.S_IMODE(cookie.stat().st_mode) == 0o600
    text = cookie.read_bytes()
    assert text.startswith(b"\xff\xff\x00\x00\x00\x00\x00\x12MIT-MAGIC-COOKIE-1\x00\x10")
    assert len(text) == 2 + 2 + 2 + 2 + 18 + 2 + 16
