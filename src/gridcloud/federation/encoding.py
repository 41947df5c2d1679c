"""The one way to write a document as bytes, so that a signature made here is checked alike everywhere.

The form is that of RFC 8785 (JSON Canonicalization Scheme), restricted: null, booleans, whole numbers of at most 53
bits, text, lists, and objects whose keys are ASCII. There are no floating point numbers. What is read must be in that
very form: one document has one text, hence one signature and one digest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeAlias

from gridcloud.errors import InvalidRequest, Malformed

__all__ = [
    "MAXIMUM_BYTES",
    "MAXIMUM_DEPTH",
    "MAXIMUM_NUMBER",
    "Json",
    "decode",
    "digest",
    "encode",
    "from_text",
    "milliseconds",
    "moment",
    "to_text",
]

Json: TypeAlias = dict[str, Any]
"""A document: what `encode` takes and `decode` gives."""

MAXIMUM_BYTES = 1 << 20
"""Bytes of a document that is read, 1 MiB."""
MAXIMUM_DEPTH = 32
"""Lists and objects within each other; the document itself is the first."""
MAXIMUM_NUMBER = (1 << 53) - 1
"""The largest whole number, and its negative the smallest: what every implementation of JSON keeps exactly."""

_CANONICAL = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a document.

    Raises InvalidRequest, naming the place, for what has no such form: a float, a number beyond 53 bits, a key that
    is not ASCII, text with half a surrogate pair, more than `MAXIMUM_DEPTH` levels.
    """
    _check(document, "the document", 1)
    try:
        return _CANONICAL.encode(document).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest("the document holds text that is not Unicode: half a surrogate pair") from error


def decode(data: bytes, *, limit: int = MAXIMUM_BYTES) -> Json:
    """Return the document in `data`, an object.

    Raises Malformed when it has more than `limit` bytes, is not UTF-8, not JSON, not an object, or not in the canonical
    form: `encode(decode(data)) == data` holds for all that is accepted.
    """
    if len(data) > limit:
        raise Malformed(f"the document has {len(data)} bytes, and {limit} is the most that is read")
    try:
        document = json.loads(
            data.decode("utf-8", "strict"),
            object_pairs_hook=_object,
            parse_float=_refuse_float,
            parse_int=_whole,
            parse_constant=_refuse_float,
        )
    except UnicodeDecodeError as error:
        raise Malformed(f"the document is not UTF-8: byte {error.start} is wrong") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"the document is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise Malformed(f"the document is nested more than {MAXIMUM_DEPTH} levels deep") from error
    if not isinstance(document, dict):
        raise Malformed("the document is not an object: it must begin with a brace")
    try:
        canonical = encode(document)
    except InvalidRequest as error:
        raise Malformed(error.message) from error
    if canonical != data:
        raise Malformed(
            "the document is not in canonical form: keys sorted, no spaces, no needless escapes (RFC 8785)"
        )
    return document


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical bytes as 43 characters of base64url."""
    return to_text(hashlib.sha256(encode(document)).digest())


def to_text(data: bytes) -> str:
    """Return bytes as base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_text(text: str, count: int) -> bytes:
    """Return the `count` bytes that `to_text` wrote; raises Malformed for another length or spelling."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("a key, digest or signature is not base64url") from error
    if len(data) != count or to_text(data) != text:
        raise Malformed(f"a key, digest or signature is not {count} bytes in base64url without padding")
    return data


def milliseconds(when: datetime) -> int:
    """Return a time as whole milliseconds since 1970 in UTC, as documents hold it; what is below is cut off."""
    return (when - _EPOCH) // _MILLISECOND


def moment(count: int) -> datetime:
    """Return the time of so many milliseconds since 1970, in UTC; raises Malformed beyond the year 9999."""
    try:
        return _EPOCH + count * _MILLISECOND
    except OverflowError as error:
        raise Malformed(f"{count} is no time in milliseconds since 1970") from error


def _check(value: Any, place: str, depth: int) -> None:
    kind = type(value)  # most values are of these kinds themselves, and asking for a Mapping takes long
    if kind is str or value is None or kind is bool or isinstance(value, str):
        return
    if isinstance(value, int):
        if abs(value) > MAXIMUM_NUMBER:
            raise InvalidRequest(f"{place} is a number of more than 53 bits")
    elif kind is dict or kind is list or isinstance(value, list | tuple | Mapping):
        if depth > MAXIMUM_DEPTH:
            raise InvalidRequest(f"the document is nested more than {MAXIMUM_DEPTH} levels deep")
        if kind is dict or (kind is not list and isinstance(value, Mapping)):
            for key, inner in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise InvalidRequest(f"a key in {place} is not ASCII text: {key!r:.80}")
                _check(inner, key[:80], depth + 1)
        else:
            for inner in value:
                _check(inner, place, depth + 1)
    else:
        raise InvalidRequest(
            f"{place} is a {type(value).__name__}: only null, booleans, whole numbers, text, lists and objects are"
        )


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Malformed(f"the key {twice!a:.80} stands twice in one object")
    return found


def _whole(digits: str) -> int:
    # Checked as text first: turning a million digits into a number takes seconds.
    if len(digits) > 17 or abs(int(digits)) > MAXIMUM_NUMBER:
        raise Malformed("a number has more than 53 bits")
    return int(digits)


def _refuse_float(text: str) -> NoReturn:
    raise Malformed(f"{text:.20} is not a whole number: floating point numbers have no place in a document")
