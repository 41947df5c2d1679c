"""An administrator goes over to another key of the SSH authority, and leaves nobody behind unawares."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.errors import Conflict, Forbidden, InvalidRequest
from tests.services import SMALL, open_service


async def test_the_next_key_is_prepared_handed_out_and_gone_over_to(tmp_path: Path) -> None:
    slow = {"cloud": {"driver": "fake", "boot_seconds": 600}}
    async with open_service(tmp_path, slow) as service, service.admin() as admin:
        early = await service.house.instances.submit("ada", SMALL)
        first = await admin.authority.get()
        while not first.left_behind:  # it is about to be made
            first = await admin.authority.get()
        assert (first.next, first.prepared, first.left_behind) == (None, None, [early.id])
        with pytest.raises(InvalidRequest, match="No key was prepared"):
            await admin.authority.rotate()

        ready = await admin.authority.prepare()
        assert ready.next is not None
        assert (await admin.authority.prepare()).next == ready.next
        given = service.house.providers.get("cloud").context.user_authority
        assert given.splitlines() == [first.present.line, ready.next.line]
        late = await service.house.instances.submit("ada", SMALL)
        assert late.id not in (await admin.authority.get()).left_behind
        with pytest.raises(Conflict, match=f"trust the present key alone: {early.id}"):
            await admin.authority.rotate()

        after = await admin.authority.rotate(now=True)
        assert (after.present, after.next, after.earlier) == (ready.next, None, [first.present])
        assert service.house.providers.get("cloud").context.user_authority == ready.next.line
        assert (await admin.authority.forget()).earlier == []


async def test_only_administrators_see_to_it(tmp_path: Path) -> None:
    async with open_service(tmp_path) as service, await service.user("ada") as ada:
        for verb in (ada.authority.get, ada.authority.prepare, ada.authority.rotate, ada.authority.forget):
            with pytest.raises(Forbidden):
                await verb()
