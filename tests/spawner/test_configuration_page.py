"""The administrators' page of the configuration: checked, saved, two at once, rolled back; for nobody else."""

from __future__ import annotations

import getpass
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import aiohttp
import pytest

from gridcloud.service.configuration_documents import FaultLine
from gridcloud.spawner.configuration_page import explain
from tests.spawner.conftest import EVIL
from tests.spawner.uphouse import NAVIGATE, UpHouse

PAGE = "/hub/gridcloud/configuration"


@pytest.fixture
async def admin(house: UpHouse) -> AsyncIterator[aiohttp.ClientSession]:
    before = house.config.read_text()
    async with house.browser() as client:
        yield client
    house.config.write_text(before)


def hidden(page: str, name: str) -> str:
    return unescape(re.findall(rf'name="{name}" value="([^"]*)"', page)[0])


def text_of(page: str) -> str:
    return unescape(re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[0])


async def look(client: aiohttp.ClientSession, query: str = "") -> str:
    async with client.get(PAGE + query, headers=NAVIGATE) as answer:
        assert answer.status == 200
        assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
        return await answer.text()


async def send(client: aiohttp.ClientSession, page: str, **fields: Any) -> tuple[int, str]:
    data = {"_xsrf": hidden(page, "_xsrf"), "since": hidden(page, "since"), **fields}
    async with client.post(PAGE, data=data, headers={**NAVIGATE, "Sec-Fetch-Site": "same-origin"}) as answer:
        return answer.status, await answer.text()


async def test_two_administrators_and_a_way_back(house: UpHouse, admin: aiohttp.ClientSession) -> None:
    page = await look(admin)
    before = house.config.read_text()
    assert text_of(page) == before
    assert "no-such-driver" in page, "the provider that is broken is told"
    added = f"\nprofiles:\n  small:\n    title: '{EVIL}'\n"

    status, checked = await send(admin, page, action="check", text=before + added.replace("title", "titel"))
    assert status == 200
    line = before.count("\n") + 4
    assert f"<strong>line {line}</strong>" in checked
    assert "titel" in text_of(checked), "what was typed stays"
    assert "<script>alert(1)" not in checked
    status, refused = await send(admin, page, action="save", text="hub: [")
    assert (status, text_of(refused)) == (422, "hub: [")
    assert house.config.read_text() == before

    status, saved = await send(
        admin, page, action="save", text=(before + added).replace("\n", "\r\n"), what=f"for {EVIL}"
    )
    assert status == 200, "sent on to the page"
    assert "It counts from the next start on" in saved
    assert house.config.read_text() == before + added
    assert "<script>alert(1)" not in saved
    assert "for &#34;&gt;&lt;script&gt;" in saved
    async with admin.get("/hub/spawn", headers=NAVIGATE) as answer:
        assert 'value="small"' in await answer.text()

    status, conflict = await send(admin, page, action="save", text=before + "currency: NOK\n")  # as of before
    assert status == 409
    assert "+  small:" in conflict
    assert "<script>alert(1)" not in conflict
    assert text_of(conflict).endswith("currency: NOK\n")
    assert house.config.read_text() == before + added

    numbers = [int(one) for one in re.findall(r"change=(\d+)", saved)]
    assert "+  small:" in await look(admin, f"?change={numbers[0]}")
    status, back = await send(admin, saved, action="rollback", number=str(numbers[1]))
    assert status == 200
    assert house.config.read_text() == before == text_of(back)


async def test_it_is_for_administrators_with_a_token_of_the_page(
    house: UpHouse, admin: aiohttp.ClientSession
) -> None:
    before = house.config.read_text()
    page = await look(admin)
    fields = {"action": "save", "text": "{}\n", "since": hidden(page, "since")}
    async with admin.post(PAGE, data=fields, headers=NAVIGATE) as answer:
        assert answer.status == 403
    status, _ = await send(admin, page, action="save", text="{}\n", since="")
    assert status == 422
    status, _ = await send(admin, page, action="nonsense", text="{}\n")
    assert status == 422
    status, _ = await send(admin, page, action="rollback", number="999999")
    assert status == 404
    async with house.stranger() as client, client.get(PAGE, allow_redirects=False) as answer:
        assert answer.status == 302
    me = f"/hub/api/users/{getpass.getuser()}"
    async with house.api() as service:
        ours, theirs = [await house.user(service, name) for name in (getpass.getuser(), "paul")]
    async with house.api(theirs) as paul, house.api(ours) as root:
        async with paul.post(PAGE, data=fields) as answer:
            assert answer.status == 403
        async with root.patch("/hub/api/users/paul", json={"admin": True}) as answer:
            assert answer.status == 200
        async with paul.patch(me, json={"admin": False}) as answer:
            assert answer.status == 200
        try:
            async with admin.get(PAGE, headers=NAVIGATE) as answer:
                assert answer.status == 403
            assert (await send(admin, page, action="save", text="{}\n"))[0] == 403
            async with admin.get("/hub/home", headers=NAVIGATE) as answer:
                assert "gridcloud/configuration" not in await answer.text()
        finally:
            async with paul.patch(me, json={"admin": True}) as answer:
                assert answer.status == 200
            async with root.patch("/hub/api/users/paul", json={"admin": False}) as answer:
                assert answer.status == 200
    assert house.config.read_text() == before


def test_faults_have_their_lines() -> None:
    faults = [FaultLine(place=f"a:b:{line}:3", key="k", message="m") for line in (1, 2, 99)]
    faults.append(FaultLine(place="GRIDCLOUD_HUB__PORT", key="", message="m"))
    assert [(one["place"], one["text"]) for one in explain(faults, "one\ntwo")] == [
        ("line 1", "one"),
        ("line 2", "two"),
        ("line 99", ""),
        ("GRIDCLOUD_HUB__PORT", ""),
    ]
