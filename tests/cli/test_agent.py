"""``gridcloud agent``: what an administrator is told who invites a machine."""

from __future__ import annotations

from tests.cli.conftest import PROVIDERS, Caller
from tests.services import make_certificate


def test_who_invites_is_told_where_no_machine_could_join(call: Caller) -> None:
    token = call("agent", "invite", "lab-pc", "--time", "3h")
    assert token.startswith("gca_")
    assert len(token.splitlines()) == 1, "what a script reads is the token alone"
    assert "it expires in" in call.err
    assert "no HTTPS door" in call.err
    certificate, key = make_certificate(call.program.folder)
    door = {"host": "127.0.0.1", "port": 0, "certificate": str(certificate), "key": str(key)}
    call.program.configure(PROVIDERS, service=door)
    call("agent", "invite", "lab-pc")
    assert "door" not in call.err
