"""``gridcloud authority``: another key, prepared and gone over to."""

from __future__ import annotations

import json

from tests.cli.conftest import Caller


def test_an_administrator_goes_over_to_another_key(call: Caller) -> None:
    first = json.loads(call("authority", "show", "--json"))
    call("authority", "rotate", code=2)
    assert "gridcloud authority prepare" in call.err
    call("authority", "prepare")
    ready = json.loads(call("authority", "show", "--json"))
    shown = call("authority", "show")
    for key in (first["present"], ready["next"]):
        assert key["fingerprint"] in shown
    call("authority", "rotate")
    after = json.loads(call("authority", "show", "--json"))
    assert after["present"] == ready["next"]
    assert after["earlier"] == [first["present"]]
    assert "rotated out" not in call("authority", "forget")
