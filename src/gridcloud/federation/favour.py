"""What a lender owes a borrower, after the Network of Favors: what was received, less what was given, never below zero.

Andrade, Brasileiro, Cirne, Mowbray, "Discouraging free riding in a peer-to-peer CPU-sharing grid" (HPDC 2004) and
"Automatic grid assembly by promoting collaboration in peer-to-peer grids" (JPDC 67, 2007): every institution keeps for
itself what each other did for it, and asks nobody else, so that nobody gains by telling stories. No balance is below
zero, so that nobody gains by leaving and coming back under a new name. What was received counts a little for ever (by
its square root, as a term of history), which tells a partner that took back all it gave from a stranger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gridcloud.federation.ledger import Amount, Entry, Total, add_up
from gridcloud.federation.model import Document

__all__ = ["Weights", "count_favours", "find_favour", "order_by_favour"]


class Weights(Document):
    """What a GPU-hour and a GB-hour count for in core-hours. A lender's own choice: others need not agree."""

    gpu: int = 16
    memory: int = 0


def find_favour(received: float, given: float) -> float:
    """Return the balance of one that gave ``received`` to us and got ``given`` from us, in core-hours, at least 0."""
    return max(0.0, received - given + math.sqrt(max(0.0, received)))


def count_favours(entries: Iterable[Entry], own: str, weights: Weights | None = None) -> dict[str, float]:
    """Return the favour of each peer in core-hours; who is not in it has 0. Only agreed entries count."""
    weights = weights or Weights()
    sums: dict[str, Total] = {}
    for (_, peer), total in add_up(entries, own).items():
        known = sums.get(peer, Total())
        sums[peer] = Total(known.given.plus(total.given), known.taken.plus(total.taken))
    return {
        peer: find_favour(_value(total.taken, weights), _value(total.given, weights))
        for peer, total in sums.items()
    }


def order_by_favour(askers: Iterable[str], favours: Mapping[str, float]) -> list[str]:
    """Return those who ask for the same room, the most favoured first; of equals, the first to ask."""
    return sorted(askers, key=lambda one: -favours.get(one, 0.0))


def _value(amount: Amount, weights: Weights) -> float:
    cores, gpus, memory = amount.hours()
    return float(cores + gpus * weights.gpu + memory * weights.memory)
