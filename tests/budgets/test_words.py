"""Hostile words and numbers where money is asked for: each is refused in plain words, none is a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Request
from tests.budgets.scenes import ended
from tests.services import SMALL, open_service

CLOUD: dict[str, Any] = {"cloud": {"driver": "fake", "price": 2}}
BUDGETS: dict[str, Any] = {"ada": {"user": "ada", "money": 10}}

WISHES = [
    {"name": "a\x1b[2Jb"},
    {"name": "a\nb"},
    {"name": "x" * 301},
    {"name": "\ud800"},
    {"before_end": ["\ud800"]},
    {"configure": [{"use": "script", "text": "\ud800"}]},
    {"before_end": ["echo", "a\0b"]},
    {"request": {"project": "wind\r\nX-Admin: yes"}},
    {"request": {"project": "\ud800"}},
    {"request": {"max_price": "NaN"}},
    {"request": {"max_price": "-1"}},
    {"request": {"max_price": "Infinity"}},
    {"request": {"time": "-1h"}},
    {"request": {"time": -5}},
    {"request": {"time": 10**30}},
    {"request": {"gpus": -2}},
    {"request": {"cpus": "nan"}},
    {"request": {"cpus": "inf"}},
    {"request": {"memory": -1}},
    {"owner": "bob\n"},
]


async def test_wishes_of_strangers_are_refused_in_plain_words(tmp_path: Path) -> None:
    async with open_service(tmp_path, CLOUD, budgets=BUDGETS) as service:
        async with service.browser(await service.token("ada")) as browser:
            for wish in WISHES:
                async with browser.post("/v1/instances", json=wish) as answer:
                    problem = await answer.json(content_type="application/problem+json")
                    assert answer.status == 422, (wish, problem)
                    assert "gridcloud failed" not in problem["detail"]
        assert not await service.house.instances.records.find()


async def test_projects_with_any_name_are_words_and_pay_nothing_of_others(tmp_path: Path) -> None:
    """Budgets, promise E."""
    budgets = BUDGETS | {"wind": {"project": "wind", "user": ["bob"], "money": 100}}
    names = [
        "Wind",
        "wind ",
        " wind",
        "WIND",
        "wind:ada",
        "*",
        "w\u200bind",
        "../wind",
        "ada",
        "{0}",
        "%s",
        "＿",
    ]
    async with (
        open_service(tmp_path, CLOUD, budgets=budgets) as service,
        await service.user("ada") as ada,
    ):
        for name in ["wind", *names]:
            found = await ada.offers(Request(project=name, time=60))
            assert not found.offers[0].available, name
            assert "ada may not charge the project" in found.offers[0].why_not
            assert not (await ada.ledger(project=name)).entries


async def test_extensions_beyond_all_dates(tmp_path: Path) -> None:
    async with open_service(tmp_path, CLOUD, budgets=BUDGETS) as service:
        mine = await service.obtain("ada", time=3600)
        wishes: list[dict[str, Any]] = [
            {"expires": "9999-12-31T23:59:59Z"},
            {"expires": "9999-12-31T23:59:59-23:59"},
            {"expires": "0001-01-01T00:00:00+23:59"},
            {"expires": "inf"},
            {"expires": 1e300},
            {"expires": "NaN"},
            {"time": "99999999999d"},
            {"time": True},
        ]
        for browser in (service.browser(), service.browser(await service.token("ada"))):
            async with browser:
                for wish in wishes:
                    async with browser.post(
                        f"/v1/instances/{mine.id}/extend", data=json.dumps(wish)
                    ) as answer:
                        problem = await answer.json(content_type="application/problem+json")
                        assert answer.status in (422, 503), (wish, problem)
                        assert "gridcloud failed" not in problem["detail"], wish
                for query in ("since=0001-01-01T00:00:00%2B23:59", "until=9999-12-31T23:59:59-23:59"):
                    async with browser.get(f"/v1/ledger?{query}") as answer:
                        assert answer.status == 200, query
        await service.house.instances.stop(mine.id)
        await ended(service.house, mine.id)


async def test_programs_are_told_what_is_wrong_with_their_words(tmp_path: Path) -> None:
    async with open_service(tmp_path, CLOUD) as service, service.admin() as admin:
        with pytest.raises(InvalidRequest, match="name: must be at most 300 printable characters"):
            await admin.start(SMALL, name="a\x1bb")
        with pytest.raises(InvalidRequest, match=r"before_end\.0: a NUL character"):
            await admin.start(SMALL, before_end=["\0"])
        with pytest.raises(InvalidRequest, match="time: "):
            await admin.extend("i-none", time=10**12)
        with pytest.raises(InvalidRequest, match=r"note: .* time: "):
            await admin.create_token(user="ada", time=-1, note="x" * 10**4)
