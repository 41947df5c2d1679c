"""The configuration through the service: checked, kept, changed by two at once, rolled back; sessions untouched."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.client import AsyncClient
from gridcloud.errors import Conflict, Forbidden, GridcloudError, InvalidRequest, InvalidSettings, NotFound
from gridcloud.instances.model import State
from gridcloud.service.configuration_documents import Edit, Verb
from gridcloud.settings.history import LARGEST, History
from tests.services import Service

PROFILES = """
profiles:
  small:  # for the first weeks
    title: Small
    # two cores at most
    choose:
      cpus: {least: 1, most: 2}
    limits:
      time: 8h
courses:
  physics:
    profiles: small
    roster:
      users: [ada]
      file: physics.csv
    teachers: ann
"""


@pytest.fixture
async def admin(service: Service) -> AsyncIterator[AsyncClient]:
    path = service.house.settings_file.path
    path.write_text(path.read_text() + PROFILES)
    (path.parent / "physics.csv").write_text("email\nBen@example.org\nada\n")
    async with service.admin() as client:
        yield client


def change(verb: str, path: str, value: object = None) -> list[Edit]:
    return [Edit(verb=Verb(verb), path=path.split("."), value=value)]


async def test_what_the_file_says_in_short(service: Service, admin: AsyncClient) -> None:
    state = await admin.configuration.get()
    assert state.text.endswith(PROFILES)
    assert (state.faults, state.warnings) == ([], [])
    assert [(one.name, one.offered, one.courses) for one in state.profiles] == [
        ("small", "everybody", ["physics"])
    ]
    assert [(one.name, one.listed, one.problem) for one in state.courses] == [("physics", 2, "")]
    assert [(one.name, one.driver) for one in state.providers] == [("cloud", "fake")]
    members = await admin.configuration.members("physics")
    assert (members.users, members.listed, members.teachers) == (["ada"], ["ada", "ben@example.org"], ["ann"])
    with pytest.raises(NotFound, match="physics"):
        await admin.configuration.members("chemistry")
    (service.house.settings_file.path.parent / "physics.csv").unlink()
    state = await admin.configuration.get()
    assert state.faults == []
    assert "physics" in state.warnings[0]
    assert "physics" in state.courses[0].problem


async def test_values_change_and_comments_stay(service: Service, admin: AsyncClient) -> None:
    edits = [
        *change("change", "profiles.small.limits", {"time": "4h", "sessions": 1}),
        *change("add", "profiles.gpu", {"title": 'A "<b>": #1\nline', "request": {"gpus": 1}}),
        *change("change", "courses.physics.profiles", ["small", "gpu"]),
        *change("set", "limits.time", "1d"),
    ]
    written = await admin.configuration.edit(edits, by="root", what="term begins")
    text = (await admin.configuration.get()).text
    for line in ("  small:  # for the first weeks", "    # two cores at most", "      sessions: 1"):
        assert line in text.splitlines()
    settings = service.house.settings()
    assert settings.profiles["gpu"].title == 'A "<b>": #1\nline'
    assert settings.limits.time == 86400
    assert settings.courses["physics"].profiles == ("small", "gpu")
    history = (await admin.configuration.history()).revisions
    assert (history[0].number, history[0].what, history[0].who, history[0].now) == (
        written.number,
        "term begins",
        "root",
        True,
    )
    assert history[1].who == ""
    back = await admin.configuration.roll_back(history[1].number)
    assert (await admin.configuration.get()).text.endswith(PROFILES)
    assert back.number == written.number + 1
    shown = await admin.configuration.revision(written.number)
    assert "+  gpu:" in shown.changes
    assert "-  gpu:" in shown.since


async def test_what_is_not_valid_is_refused_whole(service: Service, admin: AsyncClient) -> None:
    path = service.house.settings_file.path
    before = path.read_bytes()
    for edits, error in (
        (change("change", "profiles.none.title", "x"), NotFound),
        (change("remove", "profiles.none"), NotFound),
        (change("add", "profiles.small", {}), Conflict),
        (change("add", "profiles.Up", {}), InvalidSettings),
        (change("add", "profiles.a\nb: {}", {}), InvalidSettings),
        (change("set", "nonsense.a", 1), InvalidSettings),
        (change("remove", "profiles.small"), InvalidSettings),  # the course still names it
        (change("set", "profiles.small.choose.cpus.most", 0), InvalidSettings),
        (change("set", "limits.time", "8h") + change("set", "limits.time", "soon"), InvalidSettings),
    ):
        with pytest.raises(error):
            await admin.configuration.edit(edits)
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    edit = {"verb": "set", "path": ["profiles", "small", "spawner"], "value": deep}
    async with (
        service.browser() as browser,
        browser.post("/v1/configuration/edits", json={"edits": [edit]}) as answer,
    ):
        assert answer.status in (400, 422)
    for text in ("profiles: {a: {titel: x}}", "a: [", "x" * (LARGEST + 1), "\x00"):
        with pytest.raises((InvalidSettings, InvalidRequest)):
            await admin.configuration.write(text)
    verdict = await admin.configuration.check("hub: {}\nprofiles: {a: {titel: x}}")
    assert [one.place.rpartition("config.yaml:")[2] for one in verdict.faults] == ["2:16"]
    assert "title" in verdict.faults[0].message
    assert path.read_bytes() == before


async def test_two_administrators_and_nothing_is_lost(service: Service, admin: AsyncClient) -> None:
    first = await admin.configuration.get()
    await admin.configuration.write(first.text + "currency: NOK\n", since=first.digest, by="ann")
    with pytest.raises(Conflict, match="ann") as refused:
        await admin.configuration.write(first.text + "currency: DKK\n", since=first.digest, by="ben")
    assert "+currency: NOK" in refused.value.details["changes"]
    now = await admin.configuration.get()
    assert refused.value.details["digest"] == now.digest
    assert "NOK" in now.text
    with pytest.raises(Conflict):
        await admin.configuration.roll_back(1, since=first.digest)
    outcomes = await asyncio.gather(
        *(admin.configuration.edit(change("add", f"profiles.p{number}", {})) for number in range(8))
    )
    assert len({one.number for one in outcomes}) == 8
    assert {f"p{number}" for number in range(8)} <= set(service.house.settings().profiles)


async def test_a_half_written_file_and_changes_by_hand(service: Service, admin: AsyncClient) -> None:
    path = service.house.settings_file.path
    whole = path.read_text()
    assert "small" in service.house.settings().profiles
    path.write_text(whole[: whole.index("choose:") + 9])  # an editor in the middle of its work
    state = await admin.configuration.get()
    assert state.faults
    assert "small" in service.house.settings().profiles, "what it said before counts"
    with pytest.raises(InvalidSettings):
        await admin.configuration.edit(change("set", "limits.time", "1h"))
    await admin.configuration.write(whole + "currency: NOK\n", by="ann")
    [ours, broken, *_] = (await admin.configuration.history()).revisions
    assert (await admin.configuration.revision(broken.number)).text == whole[: whole.index("choose:") + 9]
    assert (ours.who, broken.who, broken.what) == ("ann", "", "changed by hand")
    path.write_text(whole + "currency: SEK\n")
    assert await service.house.configuration.notice() == ours.number + 1
    assert await service.house.configuration.notice() == 0
    assert (await admin.configuration.get()).number == ours.number + 1


async def test_it_is_for_administrators_and_private(service: Service, admin: AsyncClient) -> None:
    async with await service.user("bob") as bob:
        for verb in (
            bob.configuration.get(),
            bob.configuration.check(""),
            bob.configuration.write(""),
            bob.configuration.edit(change("set", "currency", "NOK")),
            bob.configuration.history(),
            bob.configuration.revision(1),
            bob.configuration.roll_back(1),
            bob.configuration.members("physics"),
        ):
            with pytest.raises(Forbidden):
                await verb
    async with await service.user("eve", admin=True) as eve:
        await eve.configuration.edit(change("set", "currency", "NOK"), by="somebody else")
        await eve.add_provider("more", {"driver": "fake"})
        await eve.remove_provider("more")
    history = (await admin.configuration.history()).revisions
    assert [(one.who, one.what) for one in history[:3]] == [
        ("eve", "remove providers.more"),
        ("eve", "add providers.more"),
        ("eve", "set currency"),
    ]
    folder = service.house.data / "configuration"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}


async def test_a_running_instance_stays_as_it_is(service: Service, admin: AsyncClient) -> None:
    instance = await service.obtain()
    state = await admin.configuration.get()
    await admin.configuration.write(
        "providers: {other: {driver: fake}}\nlimits: {time: 1h}\n", since=state.digest
    )
    assert list(service.house.settings().providers) == ["other"]
    after = await service.house.instances.records.get(instance.id)
    assert (after.state, after.offer, after.expires) == (State.READY, instance.offer, instance.expires)
    await admin.configuration.roll_back(state.number or 1)
    assert list(service.house.settings().providers) == ["cloud"]


def test_the_history_is_bounded_and_bears_broken_files(tmp_path: Path) -> None:
    kept = 5
    history = History(tmp_path / "h", kept)
    assert (history.last(), history.all()) == (None, [])
    for number in range(kept + 3):
        history.note(f"# {number}\n", "a" * 900, "b")
    assert len(history.all()) == kept
    assert len(history.all()[0].who) < 900
    newest = max((tmp_path / "h").iterdir())
    newest.write_text("{")
    assert history.all()[0].number == kept + 2
    assert history.note("x", "", "").number == kept + 4
    os.chmod(tmp_path / "h", 0o700)
    with pytest.raises(GridcloudError, match="history"):
        history.get(1)
