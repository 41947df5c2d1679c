"""What the documents between institutions are made of: frozen records that are checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError

from gridcloud.errors import Malformed
from gridcloud.federation.encoding import MAXIMUM_NUMBER, Json

__all__ = [
    "PROTOCOL",
    "Address",
    "Count",
    "Digest",
    "Document",
    "Flag",
    "Identifier",
    "Institution",
    "Key",
    "Signature",
    "Time",
    "Title",
    "Version",
]

PROTOCOL = 1
"""The version of the protocol that is spoken here; it stands as `version` in every envelope and signed document."""

Institution: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-hjkmnp-tv-z]{32}$")]
"""An institution: the fingerprint of its root key, 32 letters and digits. See `keys.institution_of`."""
Key: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""An Ed25519 public key: its 32 bytes as base64url."""
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""A SHA-256: its 32 bytes as base64url."""
Signature: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{86}$")]
"""An Ed25519 signature: its 64 bytes as base64url."""
Identifier: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{2,63}$")]
"""A nonce or an id, such as `gridcloud.clock` makes."""
Title: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$", max_length=200)]
"""Words for people: one line, nothing that hides or turns the text around."""
Address: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$", max_length=256)
]
"""Where a broker is reached: HTTPS, no name or password, no query."""
Time: TypeAlias = Annotated[int, Strict(), Field(ge=0, le=253_402_300_799_999)]
"""Milliseconds since 1970 in UTC, up to the year 9999."""
Count: TypeAlias = Annotated[int, Strict(), Field(ge=0, le=MAXIMUM_NUMBER)]
"""A whole number from 0."""
Flag: TypeAlias = Annotated[bool, Strict()]
"""True or false, and nothing that counts as such."""
Version: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
"""A version of the protocol."""


class Document(BaseModel):
    """A document that others wrote: every field is checked, unknown ones are refused, errors repeat nothing of it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        regex_engine="rust-regex",
    )

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the record that a document holds; raises Malformed, naming the first field that is wrong."""
        try:
            return cls.model_validate(dict(document))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise Malformed(f"{cls.__name__}: {ascii(place)[1:-1]:.80}: {first['msg']:.200}") from error

    def document(self) -> Json:
        """Return it as `encoding.encode` takes it."""
        return self.model_dump(mode="json", by_alias=True)
