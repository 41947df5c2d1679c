"""Launch the hub from a course of a learning platform, by LTI 1.3, for real."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.spawner.conftest import HERE
from tests.spawner.test_ways import closed
from tests.spawner.uphouse import NAVIGATE, UpHouse

LTI = "https://purl.imsglobal.org/spec/lti/claim/"
ISSUER = "https://moodle.example.org"


def claims(nonce: str, name: str, course: str) -> dict[str, Any]:
    """Return what a platform says of somebody who opens the hub in a course."""
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": "the-hub",
        "azp": "the-hub",
        "sub": "5",
        "iat": now,
        "exp": now + 60,
        "nonce": nonce,
        "preferred_username": name,
        f"{LTI}version": "1.3.0",
        f"{LTI}message_type": "LtiResourceLinkRequest",
        f"{LTI}deployment_id": "1",
        f"{LTI}target_link_uri": "https://hub.example.org/",
        f"{LTI}roles": ["http://purl.imsglobal.org/vocab/lis/v2/membership#Learner"],
        f"{LTI}resource_link": {"id": "r1"},
        f"{LTI}context": {"id": course, "label": course, "title": "A course"},
    }


@pytest.mark.lab
@pytest.mark.keeps("the house of the module's tests")
@asynccontextmanager
async def platform_with(public: dict[str, Any]) -> AsyncIterator[str]:
    """Serve the learning platform's keys; yield where."""

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [public]})

    application = web.Application()
    application.router.add_get("/keys", keys)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def hub_of(make_house: Callable[..., UpHouse], platform: str) -> UpHouse:
    """Return a hub, not started yet, that a learning platform launches."""
    house = make_house(
        {"here": HERE},
        profiles={"all": {"request": {"cpus": 1}}, "told": {"offered": []}},
        courses={"c": {"roster": {"lti": ["course-7"]}, "profiles": ["told"]}},
    )
    closed(house)
    house.settings["hub"] |= {
        "authenticator": "lti",
        "allow_all": True,
        "lti": {
            "issuer": ISSUER,
            "client_id": ["the-hub"],
            "authorize_url": f"{platform}/authorize",
            "keys_url": f"{platform}/keys",
            "username": "preferred_username",
        },
    }
    house.write()
    return house


async def launch(client: aiohttp.ClientSession, house: UpHouse, sign: Callable[[str], str]) -> int:
    """Launch the hub with what is signed for its nonce; return the status of the answer."""
    begun = {
        "iss": ISSUER,
        "login_hint": "5",
        "client_id": "the-hub",
        "target_link_uri": f"{house.url}/hub/",
    }
    async with client.get(
        "/hub/lti13/oauth_login", params=begun, headers=NAVIGATE, allow_redirects=False
    ) as answer:
        assert answer.status == 302, house.logs()
        asked = parse_qs(urlsplit(answer.headers["Location"]).query)
    sent = {"id_token": sign(asked["nonce"][0]), "state": asked["state"][0]}
    async with client.post(
        "/hub/lti13/oauth_callback", data=sent, headers=NAVIGATE, allow_redirects=False
    ) as answer:
        return answer.status


async def test_a_launch_from_a_course(make_house: Callable[..., UpHouse]) -> None:
    pytest.importorskip("ltiauthenticator", reason="pip install gridcloud[hub-login]")
    jwt = pytest.importorskip("jwt")
    key, forger = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "k", "use": "sig"}

    def signed(nonce: str, name: str, course: str, signer: Any, age: int) -> str:
        said = claims(nonce, name, course)
        said |= {"iat": said["iat"] - age, "exp": said["exp"] - age}
        return str(jwt.encode(said, signer, algorithm="RS256", headers={"kid": "k"}))

    async with platform_with(public) as platform:
        house = hub_of(make_house, platform)
        house.start()
        try:
            for name, course, signer, age, code in (
                ("ada", "course-7", key, 0, 302),
                ("ada", "course-8", key, 0, 302),
                ("ben", "course-8", key, 0, 302),
                ("ada", "course-7", forger, 0, 400),
                ("ada", "course-7", key, 3600, 400),
                ("../root", "course-7", key, 0, 403),
            ):
                sign = partial(signed, name=name, course=course, signer=signer, age=age)
                async with house.stranger() as client:
                    status = await launch(client, house, sign)
                    assert status == code, (name, course, age, house.logs())
                    if code == 302:
                        async with client.get("/hub/spawn", headers=NAVIGATE) as page:
                            shown = await page.text()
                        assert 'value="all"' in shown
                        assert ('value="told"' in shown) is (name == "ada")
        finally:
            house.stop()
