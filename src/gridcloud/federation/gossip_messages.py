"""The bodies of the messages that `gossip` exchanges, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gridcloud.federation.communities import CommunityId
from gridcloud.federation.encoding import encode
from gridcloud.federation.model import Count, Digest, Document, Institution, Time
from gridcloud.federation.ring import SHARDS

__all__ = ["MAXIMUM_BYTES", "MAXIMUM_ITEMS", "Compare", "Give", "Greet", "Item", "Seek", "Table", "bounded"]

MAXIMUM_ITEMS = 512
MAXIMUM_BYTES = 256 * 1024
"""Of what one message gives; a single larger item goes alone."""

Shard = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]?)$")]
Short = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22}$")]
"""The first half of a digest: enough to notice a difference."""
Table = dict[Institution, Time]
Kind = Literal["list", "leave", "keys", "record"]


class Greet(Document):
    """`gossip.greet`: digests of what the sender holds."""

    community: CommunityId
    number: Count
    """Of its newest member list."""
    members: Digest
    """The digest of that list."""
    left: tuple[Institution, ...] = Field(max_length=2000)
    keys: dict[Shard, Short] = Field(max_length=SHARDS)
    records: dict[Shard, Short] = Field(max_length=SHARDS)
    """Of the shards that both keep."""


class Item(Document):
    """One signed document that is passed on."""

    kind: Kind
    content: dict[str, Any]


class Compare(Document):
    """`gossip.compare`: where the digests differ, what the answering side holds; and news that it can tell at once."""

    community: CommunityId
    number: Count
    left: tuple[Institution, ...] = Field(max_length=2000)
    keys: dict[Shard, Table] = Field(max_length=SHARDS)
    records: dict[Shard, Table] = Field(max_length=SHARDS)
    items: tuple[Item, ...] = Field(max_length=MAXIMUM_ITEMS)


class Give(Document):
    """`gossip.give`: what the other one lacks, and what is wanted of it."""

    community: CommunityId
    items: tuple[Item, ...] = Field(max_length=MAXIMUM_ITEMS)
    want_keys: tuple[Institution, ...] = Field(max_length=MAXIMUM_ITEMS)
    want_records: tuple[Institution, ...] = Field(max_length=MAXIMUM_ITEMS)


class Seek(Document):
    """`gossip.seek`: asks a keeper for the records of a shard; answered by `gossip.give`."""

    community: CommunityId
    shard: Shard
    known: Table
    """The serials of those that the sender has: what is newer is given, as much as one message holds."""


def bounded(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return as many of the items, from the first on, as one message may hold; at least one."""
    chosen: list[Item] = []
    size = 0
    for item in items:
        size += len(encode(item.content))
        if chosen and (size > MAXIMUM_BYTES or len(chosen) == MAXIMUM_ITEMS):
            break
        chosen.append(item)
    return tuple(chosen)
