"""The page of who teaches a course: who works, which seats are free, what it costs; and nobody else's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gridcloud.service.course_documents import CourseState
from gridcloud.sessions.model import Session
from gridcloud.settings.profiles import CourseSettings
from gridcloud.spawner.course_page import _cost, rows_of, taught_by
from tests.spawner.conftest import EVIL, HERE
from tests.spawner.uphouse import NAVIGATE, UpHouse

PAGE = "/hub/gridcloud/courses"
OPEN: dict[str, Any] = {
    "days": "monday tuesday wednesday thursday friday saturday sunday".split(),  # noqa: SIM905
    "opens": "00:00", "closes": "23:59", "time_zone": "UTC", "count": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def school(make_house: Callable[..., UpHouse]) -> UpHouse:
    """A hub with two courses, into which everybody logs in by name."""
    house = make_house(
        {"here": {**HERE, "price": 100}},
        profiles={"lab": {"request": {"cpus": 0.5, "memory": "256MiB", "time": "2h"}, "offered": []}},
        courses={
            "physics": {
                "title": f"Physics {EVIL}",
                "teachers": "ann",
                "roster": {"users": ["sam", "eve"], "groups": "late"},
                "profiles": "lab",
                "project": "physics",
                "seats": OPEN,
            },
            "other": {"teachers": "bob", "roster": {"users": "zoe"}, "profiles": "lab"},
        },
        budgets=[{"name": "teaching", "project": "physics", "user": "*", "money": 5000, "period": "year"}],
    )
    more = Path(house.settings["hub"]["configuration"])
    more.write_text(more.read_text() + 'c.JupyterHub.authenticator_class = "dummy"\n')
    house.start()
    return house


@asynccontextmanager
async def login(house: UpHouse, name: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a browser of sorts, logged in as somebody."""
    async with house.stranger() as client:
        async with client.get("/hub/login", headers=NAVIGATE) as answer:
            assert answer.status == 200
        xsrf = [cookie.value for cookie in client.cookie_jar if cookie.key == "_xsrf"][-1]
        data = {"username": name, "password": "any", "_xsrf": xsrf}
        headers = {**NAVIGATE, "Sec-Fetch-Site": "same-origin"}
        async with client.post("/hub/login", data=data, headers=headers, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
        yield client


async def look(client: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with client.get(path, headers=NAVIGATE) as answer:
        return answer.status, await answer.text()


async def send(client: aiohttp.ClientSession, page: str, **changed: str) -> int:
    """Press the first Stop of a page, with fields of it changed."""
    names = ("_xsrf", "session")
    data = {name: re.findall(rf'name="{name}" value="([^"]*)"', page)[-1] for name in names} | changed
    headers = {**NAVIGATE, "Sec-Fetch-Site": "same-origin"}
    async with client.post(f"{PAGE}/physics", data=data, headers=headers, allow_redirects=False) as answer:
        return answer.status


async def test_a_lecture_as_its_teacher_sees_it(school: UpHouse) -> None:
    async with school.api() as api, login(school, "ann") as ann:
        await _until(ann, "1 free")
        await school.spawn(api, "sam", {"profile": "lab"})
        status, page = await look(ann, f"{PAGE}/physics")
        assert status == 200
        assert "<script>alert(1)" not in page
        assert "1 taken" in page, school.logs()
        assert 'id="gc-working">1<' in page
        assert re.search(r"\d+\.\d\d of 5000\.00 EUR of the budget teaching", page)
        assert "Making 1 of 1 seats ready" in page
        assert "eve" in page

        async with login(school, "bob") as bob:
            assert (await look(bob, f"{PAGE}/physics"))[0] == 404
            assert (await look(bob, f"{PAGE}/other"))[0] == 200
            assert await send(bob, page + (await look(bob, f"{PAGE}/other"))[1]) in (403, 404)
        async with login(school, "sam") as sam:
            for path in (PAGE, f"{PAGE}/physics", f"{PAGE}/other", f"{PAGE}/none"):
                assert (await look(sam, path))[0] == 404
            assert ">Courses<" not in (await look(sam, "/hub/home"))[1]
        async with (
            school.stranger() as client,
            client.get(f"{PAGE}/physics", allow_redirects=False) as answer,
        ):
            assert answer.status in (302, 403)
        # A token is no browser: what a session may do with its own is not what its user may do here.
        token = await school.user(api, "ann")
        async with (
            school.api(token) as program,
            program.get(f"{PAGE}/physics", allow_redirects=False) as answer,
        ):
            assert answer.status in (302, 403)

        assert await send(ann, page, _xsrf="forged") == 403
        assert await send(ann, page, session="s-of-nobody") == 404
        assert await school.server(api, "sam")
        assert ">Courses<" in (await look(ann, "/hub/home"))[1]
        assert "other" not in (await look(ann, PAGE))[1]
        assert await send(ann, page) == 303
        for _ in range(300):
            if not await school.server(api, "sam"):
                break
            await asyncio.sleep(0.1)
        assert await school.server(api, "sam") == {}
        assert 'id="gc-working">0<' in (await look(ann, f"{PAGE}/physics"))[1]


async def _until(client: aiohttp.ClientSession, words: str) -> None:
    for _ in range(300):
        status, page = await look(client, f"{PAGE}/physics")
        assert status == 200, page
        if words in page:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(page)


def test_who_teaches_sees_their_own_and_administrators_all() -> None:
    courses = {"a": CourseSettings(teachers=("ann",)), "b": CourseSettings(teachers=("bob",))}
    assert list(taught_by(courses, "ann", admin=False)) == ["a"]
    assert list(taught_by(courses, "sam", admin=False)) == []
    assert list(taught_by(courses, "sam", admin=True)) == ["a", "b"]


def test_rows_and_costs_in_words() -> None:
    session = Session.model_validate(
        {
            "id": "s-1",
            "owner": "Sam",
            "request": {},
            "plan": {"words": ["x"]},
            "instance_id": "i-1",
            "created": "2026-09-01T07:00:00Z",
        }
    )
    rows = rows_of(["eve", "sam"], [session])
    assert [(row["member"], row["session"]) for row in rows] == [("Sam", session), ("eve", None)]
    state = CourseState.model_validate(
        {"name": "c", "currency": "EUR", "spent": "3.5", "waited": "1", "unpriced": 2}
    )
    assert (
        _cost(state)
        == "3.50 EUR, of which 1.00 for seats that nobody took, and 2 machines whose price is not known"
    )
    assert _cost(CourseState(name="c", currency="EUR")) == ""
