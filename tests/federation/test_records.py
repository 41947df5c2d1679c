"""Records: what a member says of itself, and what is not believed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gridcloud.errors import (
    ClockSkew,
    Expired,
    Forged,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Revoked,
    TooLongLived,
    UnknownSigner,
    WrongVersion,
)
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.records import (
    Profile,
    Record,
    Room,
    make_record,
    newer_record,
    next_serial,
    read_record,
    spoken_version,
)
from gridcloud.federation.wishes import Capacity
from tests.federation.scenes import MINUTE, Place, signers

HOME, OTHER = Place("Copenhagen"), Place("Aarhus")
ROOM = Room(
    kind="container", total=Capacity(millicores=64_000, memory=1 << 18), free=Capacity(millicores=8_000)
)
PROFILE = Profile(
    name="Copenhagen", addresses=("https://grid.example.org",), rooms=(ROOM,), images=("notebook",)
)
LATER = Profile(name="x", protocols=(2, 3))


def record(**changes: Any) -> Record:
    told: dict[str, Any] = {"profile": PROFILE, "serial": HOME.now, "lifetime": timedelta(hours=1)} | changes
    return make_record(HOME.service, HOME.institution, told["profile"], told["serial"], told["lifetime"])


def signed(**changes: Any) -> dict[str, Any]:
    """Return a record that its own member signed, with fields changed before."""
    document = {name: value for name, value in record().document().items() if name != "signature"} | changes
    return document | {"signature": HOME.service.sign("record", document)}


def test_a_record_is_read_back_from_whoever_passed_it_on() -> None:
    document = decode(encode(record().document()))
    found = read_record(document, signers(HOME), HOME.now)
    assert found == record()
    assert found.read_profile() == PROFILE


def test_what_a_newer_version_adds_is_kept_and_passed_on() -> None:
    document = signed(weather="rain", profile=PROFILE.document() | {"energy": 12})
    found = read_record(document, signers(HOME), HOME.now)
    assert found.document() == document
    assert found.read_profile() == PROFILE


@pytest.mark.parametrize(
    ("document", "expected", "why"),
    [
        (record().document() | {"serial": HOME.now + 1}, Forged, "."),
        (record().document() | {"weather": "rain"}, Forged, "."),
        (signed(version=2), WrongVersion, "version 2"),
        (signed(serial=HOME.now + 61_000), ClockSkew, "61 s from now"),
        (signed(serial=2**47), ClockSkew, "newest for ever"),
        (signed(expires=HOME.now + 25 * 60 * MINUTE), TooLongLived, "more than"),
        (signed(serial=HOME.now - 2, expires=HOME.now), Expired, "is over"),
        (signed(institution=OTHER.institution), UnknownSigner, "."),
        (signed(key=OTHER.service.public), UnknownSigner, "not a key"),
        (signed(more="x" * 20_000), Malformed, "16384 is the most"),
        (signed(profile={"name": "x", "rooms": [{"kind": "container"}]}), Malformed, "rooms"),
        (signed(profile={"name": "x\x1b[2J"}), Malformed, "name"),
        (signed(profile={"name": "x", "addresses": ["file:///etc/passwd"]}), Malformed, "addresses"),
        (signed(profile={"name": "x", "images": ["y"] * 65}), Malformed, "images"),
        (signed(profile={}), Malformed, "name"),
    ],
)
def test_what_is_not_believed(document: dict[str, Any], expected: type[MessageRefused], why: str) -> None:
    with pytest.raises(MessageRefused, match=why) as refused:
        read_record(document, signers(HOME), HOME.now)
    assert type(refused.value) is expected
    assert refused.value.why.isprintable()


def test_strangers_and_former_members_have_no_records() -> None:
    with pytest.raises(UnknownSigner):
        read_record(record().document(), signers(OTHER), HOME.now)
    with pytest.raises(Revoked):
        read_record(record().document(), Signers({}, {HOME.institution: "put out"}), HOME.now)


def test_nobody_has_more_free_than_there_is() -> None:
    lie = ROOM.document() | {"free": Capacity(gpus=8).document()}
    with pytest.raises(Malformed, match="more is free than there is"):
        read_record(signed(profile={"name": "x", "rooms": [lie]}), signers(HOME), HOME.now)


def test_the_newer_one_is_in_force_whichever_came_first() -> None:
    old, new = record(), record(serial=HOME.now + 1)
    assert newer_record(old, new) is newer_record(new, old) is newer_record(None, new) is new
    other = record(profile=PROFILE.model_copy(update={"name": "Another"}))
    assert newer_record(old, other) == newer_record(other, old)
    assert next_serial(0, 5) == 5
    assert next_serial(9, 5) == 10


def test_what_is_too_long_or_large_is_not_written() -> None:
    with pytest.raises(InvalidRequest, match="24 hours"):
        record(lifetime=timedelta(hours=25))
    with pytest.raises(InvalidRequest, match="too large"):
        record(profile=PROFILE.model_copy(update={"images": tuple("x" * 200 + str(n) for n in range(90))}))


def test_the_highest_common_version_is_spoken() -> None:
    assert spoken_version(PROFILE) == 1
    assert spoken_version(LATER, frozenset({1, 2})) == 2
    with pytest.raises(WrongVersion, match="speaks version 2, 3"):
        spoken_version(LATER)
