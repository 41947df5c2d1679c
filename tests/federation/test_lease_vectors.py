"""One body of each message about leases and the ledger, as the page of the protocol promises it, written and read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.keys import PrivateKey, institution_of
from gridcloud.federation.leases import (
    MESSAGES,
    Accept,
    Ask,
    End,
    Heard,
    LentState,
    Message,
    Offer,
    Offers,
    Reason,
    Renew,
    Status,
    read_message,
    write_message,
)
from gridcloud.federation.ledger import Claim, Claims, Entry, Verdicts, check_seal, seal, summarise
from gridcloud.federation.wishes import Capacity, Wish

FILE = Path(__file__).parent / "vectors" / "leases.json"
PAGE = Path(__file__).parents[2] / "docs" / "contracts" / "lease-protocol.md"

LENDER, BORROWER = (
    PrivateKey(hashlib.sha256(f"gridcloud test key\n{name} service".encode()).digest())
    for name in ("lender", "borrower")
)
CAPACITY = Capacity(millicores=4000, memory=16384, gpus=1)
WISH = Wish(
    need="s-1",
    capacity=CAPACITY,
    seconds=7200,
    user="ada",
    groups=("physics",),
    purpose="teaching",
    image="scientific-notebook",
    gpu_model="H100",
)
OFFER = Offer(
    shape="virtual_machine gpu.small",
    capacity=Capacity(millicores=8000, memory=32768, gpus=1),
    ttl=300_000,
    seconds=7200,
    price="1.2 EUR",
    before=1_772_409_900_000,
)
CLAIM = Claim(
    lease="x-1",
    part=0,
    lender=institution_of(LENDER.public),
    borrower=institution_of(BORROWER.public),
    user="ada",
    capacity=OFFER.capacity,
    price=OFFER.price,
    began=1_772_409_660_000,
    ended=1_772_413_260_000,
)
OPEN = Entry(claim=CLAIM, lender=seal(CLAIM, LENDER))
AGREED = OPEN.model_copy(update={"borrower": seal(CLAIM, BORROWER)})

BODIES: tuple[Message, ...] = (
    Ask(wish=WISH),
    Offers(need="s-1", offers=(OFFER,)),
    Offers(need="s-1", refusal="there is no room now"),
    Accept(lease="x-1", wish=WISH, offer=OFFER),
    Renew(lease="x-1", turn=1),
    Heard(lease="x-1", deadline=1_772_410_500_000),
    End(lease="x-1", before=1_772_409_900_000),
    Status(
        lease="x-1",
        serial=3,
        state=LentState.WARNED,
        before=1_772_409_900_000,
        expires=1_772_410_200_000,
        deadline=1_772_410_500_000,
        why="exams begin",
        connection={"path": "/leases/x-1"},
    ),
    Status(
        lease="x-2",
        serial=1,
        state=LentState.ENDED,
        before=1_772_409_900_000,
        reason=Reason.CHANGED,
        why="the offer has changed",
        offer=OFFER.model_copy(update={"price": "1.5 EUR"}),
    ),
)
LEDGER = (
    Claims(entries=(OPEN,)),
    Verdicts(entries=(AGREED,)),
    summarise([AGREED], frozenset({CLAIM.lender, CLAIM.borrower}), "2026-03"),
)


def vectors() -> list[dict[str, Any]]:
    bodies = [write_message(one) for one in BODIES] + [(one.kind, one.document()) for one in LEDGER]
    return [{"kind": kind, "text": encode(body).decode()} for kind, body in bodies]


def test_vectors_are_what_is_written() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == vectors()


def test_vectors_are_read() -> None:
    forms = {one.kind: type(one) for one in LEDGER}
    for one in json.loads(FILE.read_text(encoding="utf-8")):
        body = decode(one["text"].encode())
        if one["kind"] in MESSAGES:
            assert read_message(one["kind"], body) in BODIES
        else:
            assert forms[one["kind"]].of(body) in LEDGER
    entry = Verdicts.of(decode(vectors()[-2]["text"].encode())).entries[0]
    assert entry.borrower is not None
    check_seal(entry.claim, entry.lender)
    check_seal(entry.claim, entry.borrower)


@pytest.mark.parametrize("kind", [*MESSAGES, *(one.kind for one in LEDGER)])
def test_the_page_names_every_kind_and_field(kind: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}`"))
    form = MESSAGES.get(kind) or {one.kind: type(one) for one in LEDGER}[kind]
    assert all(f"`{name}`" in row for name in form.model_fields)


def test_the_page_names_every_state() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{state}` |" in page for state in LentState)
