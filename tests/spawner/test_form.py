"""The spawn page: made from the live configuration, with hostile names in it."""

from __future__ import annotations

import re

from tests.spawner.conftest import EVIL, HERE
from tests.spawner.uphouse import NAVIGATE, UpHouse


async def test_the_page_tells_what_there_is_and_escapes_it(house: UpHouse) -> None:
    async with house.browser() as client, client.get("/hub/spawn") as answer:
        page = await answer.text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{7*7}}" in page
    assert '<option value="here">' in page
    assert "no-such-driver" in page
    for name in ("on", "kind", "cpus", "memory", "gpus", "gpu_model", "image", "time"):
        [label] = re.findall(rf'id="(gc-[a-z-]+)" name="{name}"', page)
        assert f'<label for="{label}">' in page


async def test_a_sent_form_is_checked_and_what_was_typed_is_kept(house: UpHouse) -> None:
    async with house.browser() as client:
        page = {"cpus": "1", "memory": "a lot", "image": EVIL}
        async with client.post(
            f"/hub/spawn?_xsrf={await xsrf(client)}", data=page, headers=NAVIGATE
        ) as answer:
            text = await answer.text()
        assert answer.status == 400
        assert "is not a size" in text
        assert 'value="a lot"' in text
        assert "<script>alert(1)" not in text


async def test_a_link_fills_in_the_form_and_starts_nothing(house: UpHouse) -> None:
    async with house.browser() as client:
        async with client.get("/hub/spawn?opt-cpus=2&opt-time=90m", headers=NAVIGATE) as answer:
            text = await answer.text()
        assert 'value="90m"' in text
        assert 'value="2"' in text
        async with client.get("/hub/home") as answer:
            assert "Stop My Server" not in await answer.text()


async def test_what_is_free_is_told_again(house: UpHouse) -> None:
    async with house.browser() as client:
        headers = {"X-XSRFToken": await xsrf(client)}
        async with client.post("/hub/gridcloud/offers", headers=headers) as answer:
            assert answer.status == 200
            free = {offer["provider"]: offer["free"] for offer in (await answer.json())["offers"]}
        assert free == {"here": True, "broken": False}


async def test_providers_edited_apply_at_once(house: UpHouse) -> None:
    house.providers["another"] = HERE
    house.write()
    async with house.browser() as client, client.get("/hub/spawn") as answer:
        assert '<option value="another">' in await answer.text()
    del house.providers["another"]
    house.write()
    async with house.browser() as client, client.get("/hub/spawn") as answer:
        assert '<option value="another">' not in await answer.text()


async def test_a_form_starts_a_session_with_live_steps(house: UpHouse) -> None:
    async with house.browser() as client, house.api() as admin:
        form = {"cpus": "1", "memory": "512MiB", "on": "here", "kind": "", "gpus": "", "time": "2h"}
        token = await xsrf(client)
        async with client.post(f"/hub/spawn?_xsrf={token}", data=form, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
        async with client.get("/hub/home") as answer:
            text = await answer.text()
        user = re.findall(r'user: "(.+?)"', text)[0]
        async with client.get(
            f"/hub/api/users/{user}/server/progress", headers={"X-XSRFToken": token}
        ) as answer:
            told = await answer.text()
        assert '"ready": true' in told
        async with client.get("/hub/home") as answer:
            assert "Your session ends at" in await answer.text()
        await house.stop_server(admin, user)


async def xsrf(client: object) -> str:
    """Return the XSRF token of a page."""
    async with client.get("/hub/spawn", headers=NAVIGATE) as answer:  # type: ignore[attr-defined]
        return re.findall(r'xsrf_token: "(.+?)"', await answer.text())[0]
