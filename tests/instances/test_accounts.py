"""Whose account of this computer somebody's programs run as, and the words where there is none."""

from __future__ import annotations

import pytest

from gridcloud.errors import Forbidden
from gridcloud.instances.accounts import account_for
from gridcloud.instances.handing import nobody_of


def test_a_seat_has_no_account_and_its_internal_name_is_told_to_nobody() -> None:
    with pytest.raises(Forbidden, match="a course's seat belongs to nobody yet") as refused:
        account_for(nobody_of("physics"), {}, share=False, root=False)
    assert nobody_of("physics") not in f"{refused.value} {refused.value.remedy}"


@pytest.mark.needs_root
@pytest.mark.parametrize(("share", "said"), [(True, True), (False, False)])
def test_as_root_a_shared_account_does_not_count_and_that_is_said(share: bool, said: bool) -> None:
    with pytest.raises(Forbidden, match="'nobody-here' has no account") as refused:
        account_for("nobody-here", {}, share=share, root=False)
    assert ("'share_account' does not count" in str(refused.value)) is said
