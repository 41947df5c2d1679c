"""Who an institution is, and which of its keys are good."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcloud.errors import (
    Expired,
    Forged,
    Forked,
    GridcloudError,
    InvalidRequest,
    Malformed,
    Revoked,
    UnknownSigner,
    WrongVersion,
)
from gridcloud.federation.encoding import to_text
from gridcloud.federation.keys import (
    PrivateKey,
    ServiceKey,
    check_service_key,
    heard,
    institution_of,
    make_key_list,
    newer_key_list,
    read_key_list,
    revoke_service_key,
    rotate_service_key,
    spoken,
    verify,
)
from tests.federation.scenes import MINUTE, YEAR, Place, key

HOME = Place("Copenhagen")
INSTITUTION = st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=32, max_size=32)


@given(INSTITUTION)
@settings(max_examples=50)
def test_an_id_is_read_over_the_telephone_whole(institution: str) -> None:
    digits = spoken(institution)
    assert heard(digits) == heard(digits.replace(" ", "-")) == heard(f" {digits}\n") == institution


@given(INSTITUTION, st.integers(0, 49), st.integers(1, 9))
@settings(max_examples=50)
def test_every_wrong_digit_and_swapped_pair_is_noticed(institution: str, place: int, change: int) -> None:
    digits = spoken(institution).replace(" ", "")
    wrong = digits[:place] + str((int(digits[place]) + change) % 10) + digits[place + 1 :]
    swapped = digits[:place] + digits[place : place + 2][::-1] + digits[place + 2 :]
    for text in {wrong, swapped} - {digits}:
        with pytest.raises(InvalidRequest, match="digit"):
            heard(text)


@pytest.mark.parametrize("text", ["", "12345", "٣" * 50, "9" * 50, "a" * 50, "1" * 51])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        heard(text)


def test_a_private_key_does_not_show_itself() -> None:
    private = PrivateKey.generate()
    assert to_text(private.secret()) not in repr(private)
    assert PrivateKey(private.secret()).public == private.public
    with pytest.raises(ValueError, match="32"):
        PrivateKey(b"short")


def test_a_signature_holds_for_one_thing_of_one_kind_by_one_key() -> None:
    document = {"a": 1}
    signature = HOME.root.sign("keys", document)
    verify(HOME.root.public, signature, "keys", document)
    verify(HOME.root.public, signature, "keys", document | {"signature": signature})
    for public, context, what in [
        (HOME.service.public, "keys", document),
        (HOME.root.public, "envelope", document),
        (HOME.root.public, "keys", {"a": 2}),
    ]:
        with pytest.raises(Forged):
            verify(public, signature, context, what)


@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), bytes(31) + b"\x80", b"\xec" + b"\xff" * 31])
def test_a_key_that_anybody_signs_for_is_refused(raw: bytes) -> None:
    # S = 0 and R = the neutral point: the signature that holds for such a key and a matching document.
    signature = to_text(b"\x01" + bytes(63))
    with pytest.raises(Forged, match="anybody"):
        verify(to_text(raw), signature, "keys", {})


def test_a_key_list_is_read_back_and_every_change_is_noticed() -> None:
    document = HOME.keys.document()
    assert read_key_list(document, HOME.institution) == HOME.keys
    assert HOME.keys.institution == HOME.institution == institution_of(HOME.root.public)
    changes: list[tuple[dict[str, Any], type[GridcloudError]]] = [
        ({"serial": 2}, Forged),
        ({"issued": 1}, Forged),
        ({"keys": []}, Forged),
        ({"root": key("other").public}, Forged),
        ({"version": 2}, WrongVersion),
        ({"version": "1"}, Malformed),
        ({"version": True}, Malformed),
        ({"serial": -1}, Malformed),
        ({"serial": "2"}, Malformed),
        ({"more": 1}, Malformed),
        ({"signature": "x"}, Malformed),
        ({"keys": [document["keys"][0]] * 17}, Malformed),
    ]
    for change, expected in changes:
        with pytest.raises(expected):
            read_key_list(document | change)
    with pytest.raises(UnknownSigner):
        read_key_list(document, Place("Aarhus").institution)


def test_keys_are_rotated_with_an_overlap() -> None:
    new = key("Copenhagen service 2").public
    now = HOME.now + MINUTE
    rotated = rotate_service_key(HOME.root, HOME.keys, new, now, YEAR, 10 * MINUTE)
    assert newer_key_list(HOME.keys, rotated) == newer_key_list(rotated, HOME.keys) == rotated
    check_service_key(rotated, new, now)
    check_service_key(rotated, HOME.service.public, now + 9 * MINUTE)
    with pytest.raises(Expired):
        check_service_key(rotated, HOME.service.public, now + 10 * MINUTE)
    with pytest.raises(Expired):
        check_service_key(rotated, new, now - 1)
    with pytest.raises(UnknownSigner):
        check_service_key(rotated, key("stranger").public, now)
    later = rotate_service_key(HOME.root, rotated, key("third").public, now + 11 * MINUTE, YEAR, 0)
    assert len(later.keys) == 2, "what is over is left out"


def test_a_revoked_key_never_comes_back() -> None:
    revoked = revoke_service_key(HOME.root, HOME.keys, HOME.service.public, HOME.now)
    with pytest.raises(Revoked):
        check_service_key(newer_key_list(HOME.keys, revoked), HOME.service.public, HOME.now)
    again = revoke_service_key(HOME.root, revoked, HOME.service.public, HOME.now + 1)
    assert again.revoked == revoked.revoked
    for back in (HOME.key_list(serial=9), make_key_list(HOME.root, 9, HOME.now, ())):
        with pytest.raises(Revoked, match="takes back"):
            newer_key_list(revoked, back)


def test_two_lists_of_one_serial_are_told() -> None:
    span = ServiceKey(key=key("other").public, valid_from=0, valid_until=YEAR)
    other = make_key_list(HOME.root, 1, HOME.now, (span,))
    with pytest.raises(Forked, match="serial 1"):
        newer_key_list(HOME.keys, other)
    assert newer_key_list(None, other) == newer_key_list(other, other) == other
    with pytest.raises(UnknownSigner):
        newer_key_list(HOME.keys, Place("Aarhus").keys)
