"""Hand-out and shared folders of a course in its members' sessions, by each of the ways there are."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.connections import run
from gridcloud.connections.driver import Command
from gridcloud.instances.model import Folder
from gridcloud.profiles.folders import folders_of
from gridcloud.service.house import House
from gridcloud.sessions.model import Session
from gridcloud.sessions.places import find_home
from tests.houses import containers, here, link, machines, open_house, story
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.sessions.visit import PLAN, SMALL, over

COURSES: dict[str, Any] = {"physics": {"handout": "physics/handout", "shared": "physics/shared"}}


@pytest.fixture
def base() -> Iterator[Path]:
    """The folder of all courses, with that of physics; other accounts may pass to it."""
    with tempfile.TemporaryDirectory(prefix="gct-courses-", dir="/var/tmp") as folder:
        base = Path(folder)
        for path in (
            base,
            base / "physics",
            base / "physics" / "handout",
            base / "physics" / "handout" / "sub",
        ):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        (base / "physics" / "shared").mkdir()
        (base / "physics" / "shared").chmod(0o1777)
        (base / "physics" / "handout" / "sheet").write_text("first")
        (base / "physics" / "handout" / "sub" / "more").write_text("more")
        (base / "physics" / "handout" / "sheet").chmod(0o644)
        yield base


async def begin(house: House, owner: str = "ada") -> Session:
    folders = house.course_folders("physics")
    session = await house.sessions.submit(owner, SMALL, PLAN, course="physics", folders=folders)
    async with asyncio.timeout(120):
        return await house.sessions.wait(session.id)


async def says(house: House, session: Session, text: str) -> str:
    """Return what a shell says at home in a session, complaints included."""
    instance = await house.instances.records.get(session.instance_id)
    connection = await link(house, instance)
    home = await find_home(connection, instance)
    done = await run(
        connection, Command(("/bin/sh", "-c", f"{{ {text}; }} 2>&1"), directory=home), timeout=60
    )
    return done.stdout.decode().strip()


async def end(house: House, session: Session) -> None:
    await house.sessions.stop(session.id)
    await over(house, session)


async def test_who_is_our_own_account_gets_a_copy_of_the_hand_out(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # The home of our own account is where HOME says: the tests' own is left alone.
    monkeypatch.setenv("HOME", str(home))
    sections: dict[str, Any] = {"courses": COURSES, "hub": {"course_folders": str(base)}}
    async with open_house(tmp_path, {"here": here()}, **sections) as house:
        session = await begin(house)
        copy = home / "courses" / "physics" / "handout"
        assert (copy / "sub" / "more").read_text() == "more", await story(house, session.id)
        assert not copy.is_symlink()
        assert copy.stat().st_mode & 0o222 == 0
        assert (copy / "sheet").stat().st_mode & 0o222 == 0
        await says(house, session, "echo together >courses/physics/shared/note")
        assert (base / "physics" / "shared" / "note").read_text() == "together\n"
        await end(house, session)

        # What the teacher changed meanwhile comes with the next session.
        (base / "physics" / "handout" / "sheet").write_text("second")
        await end(house, await begin(house))
        assert (copy / "sheet").read_text() == "second"
        assert [path.name for path in copy.parent.iterdir() if "kept" in path.name] == []

        # A copy that its user changed is theirs: it is kept, and the teacher's is as it was.
        (copy / "sheet").chmod(0o644)
        (copy / "sheet").write_text("mine")
        session = await begin(house)
        assert (copy / "sheet").read_text() == "second"
        assert (copy.parent / f"handout-kept-{session.id}" / "sheet").read_text() == "mine"
        assert (base / "physics" / "handout" / "sheet").read_text() == "second"
        await end(house, session)


async def test_a_home_that_has_all_courses_in_it_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "house").mkdir()
    for name in ("handout", "shared"):
        (tmp_path / "courses" / "physics" / name).mkdir(parents=True)
        (tmp_path / "courses" / "physics" / name / "mine").write_text(name)
    sections: dict[str, Any] = {
        "courses": COURSES,
        "hub": {"course_folders": str(tmp_path / "courses")},
    }
    async with open_house(tmp_path / "house", {"here": here()}, **sections) as house:
        session = await begin(house)
        folder = tmp_path / "courses" / "physics"
        assert sorted(path.name for path in folder.iterdir()) == ["handout", "shared"], await story(
            house, session.id
        )
        for name in ("handout", "shared"):
            assert not (folder / name).is_symlink()
            assert (folder / name / "mine").read_text() == name
        await end(house, session)


@pytest.mark.needs_root
async def test_another_account_reads_the_folder_itself_and_cannot_turn_it_writable(
    tmp_path: Path, base: Path
) -> None:
    name = f"gct{secrets.token_hex(3)}"
    await asyncio.to_thread(subprocess.run, ["useradd", "--create-home", name], check=True)
    try:
        with tempfile.TemporaryDirectory(prefix="gct-session-", dir="/var/tmp") as folder:
            Path(folder).chmod(0o711)
            sections: dict[str, Any] = {"courses": COURSES, "hub": {"course_folders": str(base)}}
            provider = here(directory=folder, accounts={"ada": name})
            async with open_house(tmp_path, {"here": provider}, **sections) as house:
                session = await begin(house)
                assert (
                    await says(house, session, "id -un; cat courses/physics/handout/sheet")
                    == f"{name}\nfirst"
                )
                (base / "physics" / "handout" / "sheet").write_text("live")
                tried = "cat sheet; echo x >sheet; echo x >new; rm -f sheet; chmod -R u+w . ; mv sub away; ls"
                said = await says(house, session, f"cd courses/physics/handout/; {tried}")
                assert said.startswith("live")
                assert said.count("ermission denied") + said.count("not permitted") >= 5
                assert sorted(path.name for path in (base / "physics" / "handout").iterdir()) == [
                    "sheet",
                    "sub",
                ]
                assert await says(house, session, "echo hers >courses/physics/shared/hers") == ""
                assert (base / "physics" / "shared" / "hers").read_text() == "hers\n"
                await end(house, session)
                # One that the account could change is copied instead.
                (base / "physics" / "handout" / "sub" / "more").chmod(0o666)
                (base / "physics" / "shared").chmod(0o755)
                session = await begin(house)
                said = await says(house, session, "[ -L courses/physics/handout ] || echo copied")
                assert said == "copied"
                assert "the session's account may not write there" in await story(house, session.id)
                await end(house, session)
    finally:
        await asyncio.to_thread(
            subprocess.run, ["userdel", "--remove", name], check=True, capture_output=True
        )


@pytest.mark.needs_root
async def test_a_container_mounts_both(tmp_path: Path, base: Path, container_engine: Engine) -> None:
    sections: dict[str, Any] = {"courses": COURSES, "hub": {"course_folders": str(base)}}
    (base / "physics" / "shared").chmod(0o777)
    provider = containers(container_engine, SESSION_IMAGE)
    async with open_house(tmp_path, {"there": provider}, **sections) as house:
        session = await begin(house)
        assert await says(house, session, "cat courses/physics/handout/sheet") == "first"
        said = await says(
            house, session, "echo x >courses/physics/handout/sheet; touch courses/physics/handout/new"
        )
        assert said.count("Read-only file system") == 2, said
        assert await says(house, session, "echo hers >courses/physics/shared/hers") == ""
        assert (base / "physics" / "shared" / "hers").read_text() == "hers\n"
        await end(house, session)


@pytest.mark.needs_root
async def test_elsewhere_the_hand_out_is_copied(tmp_path: Path, base: Path, ssh_machine: Machine) -> None:
    sections: dict[str, Any] = {"courses": COURSES, "hub": {"course_folders": str(base)}}
    async with open_house(tmp_path, {"there": machines(ssh_machine)}, **sections) as house:
        session = await begin(house)
        assert await says(house, session, "cat courses/physics/handout/sub/more") == "more"
        said = await says(house, session, "echo x >courses/physics/handout/sheet")
        assert "ermission denied" in said
        told = await story(house, session.id)
        assert "courses/physics/shared is not there: what is shared is only on the hub's own computer" in told
        await end(house, session)


async def test_what_cannot_be_had_is_told_and_stops_nobody(tmp_path: Path, base: Path) -> None:
    (base / "physics" / "shared").rename(base / "physics" / "away")
    (base / "physics" / "shared").symlink_to("/etc")
    courses: dict[str, Any] = {"physics": {"handout": "physics/missing", "shared": "physics/shared"}}
    sections: dict[str, Any] = {"courses": courses, "hub": {"course_folders": str(base)}}
    async with open_house(tmp_path, {"here": here()}, **sections) as house:
        session = await begin(house)
        told = await story(house, session.id)
        assert "courses/physics/handout is not there: The course physics has no folder" in told
        assert "courses/physics/shared is not there: " in told
        assert "a part of it is a symbolic link" in told
        await end(house, session)


def test_folders_carry_their_path_below_the_base(tmp_path: Path, base: Path) -> None:
    from tests.houses import configure

    settings = configure(tmp_path, {}, courses=COURSES, hub={"course_folders": str(base)}).current()[0]
    handout, shared = folders_of(settings, "physics")
    assert handout == Folder(
        source=str(base / "physics/handout"), below="physics/handout", at="physics/handout", read_only=True
    )
    assert (shared.below, shared.read_only) == ("physics/shared", False)
