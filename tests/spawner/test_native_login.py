"""Accounts that the hub keeps itself: who signs up and is let in can log in."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest

from tests.spawner.conftest import HERE
from tests.spawner.uphouse import NAVIGATE, UpHouse

PASSWORD = "a-long-password-of-ada"


async def send(client: aiohttp.ClientSession, path: str, **fields: str) -> tuple[int, str]:
    async with client.get(path, headers=NAVIGATE) as answer:
        assert answer.status == 200
    xsrf = [cookie.value for cookie in client.cookie_jar if cookie.key == "_xsrf"][-1]
    headers = {**NAVIGATE, "Sec-Fetch-Site": "same-origin"}
    data = {**fields, "_xsrf": xsrf}
    async with client.post(path, data=data, headers=headers, allow_redirects=False) as answer:
        return answer.status, await answer.text()


async def test_who_signed_up_logs_in(make_house: Callable[..., UpHouse]) -> None:
    pytest.importorskip("nativeauthenticator")
    house = make_house({"here": HERE})
    house.settings["hub"] |= {"authenticator": "native", "allow_all": True, "admin_users": ["ada"]}
    house.write()
    house.start()
    try:
        await _log_in(house)
    finally:
        house.stop()


async def _log_in(house: UpHouse) -> None:
    twice = {"signup_password": PASSWORD, "signup_password_confirmation": PASSWORD}
    async with house.stranger() as client:
        for name in ("ada", "ben"):
            assert (await send(client, "/hub/signup", username=name, **twice))[0] == 200
    for name, password, says in (("ada", "wrong", "Invalid"), ("ben", PASSWORD, "has not been authorized")):
        async with house.stranger() as client:
            status, page = await send(client, "/hub/login", username=name, password=password)
            assert status == 200, house.logs()
            assert says in page
    async with house.stranger() as client:
        status, _ = await send(client, "/hub/login", username="ada", password=PASSWORD)
        assert status == 302, house.logs()
        async with client.get("/hub/authorize", headers=NAVIGATE) as answer:
            assert answer.status == 200
            assert "ben" in await answer.text()
