"""Each list of members is stored by itself, and what a crash leaves of them is put right at the next start."""

from __future__ import annotations

from pathlib import Path

from tests.grid.offices import acquaint, places, until


async def test_lists_come_back_and_go_with_their_community(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        community = (await acquaint(alpha, beta, gamma)).community
        rows = await alpha.store.find("grid.list")
        assert sorted(row.body["number"] for row in rows) == [1, 2, 3]
        assert all(row.version == 1 for row in rows), "what was stored is not written again"
        await alpha.close()
        await alpha.open()
        held = alpha.office._circle.held[community]
        assert [one.number for one in held.membership.lists] == [1, 2, 3]
        await alpha.office.forget("north")
        assert await alpha.store.find("grid.list") == []


async def test_what_a_crash_left_is_put_right(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        community = (await acquaint(alpha, beta, gamma)).community
        third = next(row for row in await alpha.store.find("grid.list") if row.body["number"] == 3)
        await alpha.office.close()
        # Killed while it went over to a branch that ends sooner: the third list does not follow on the second.
        await alpha.store.update(third, body=third.body | {"previous": "x" * 43})
        # Killed while it forgot another community: a list without one.
        other = third.body | {"community": "c-" + "0" * 40, "number": 7}
        await alpha.store.insert("grid.list", f"{other['community']}-7", "grid", "here", other)
        await alpha.store.close()
        await alpha.open()
        held = alpha.office._circle.held[community]
        assert [one.number for one in held.membership.lists] == [1, 2]
        rows = await alpha.store.find("grid.list")
        assert sorted((row.body["community"], row.body["number"]) for row in rows) == [
            (community, 1),
            (community, 2),
        ]
        alpha.office._wake()
        await until(lambda: [one.number for one in held.membership.lists] == [1, 2, 3])  # others have it
        await until(lambda: held.saved == held.mark())
        assert len(await alpha.store.find("grid.list")) == 3
