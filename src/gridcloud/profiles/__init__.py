"""What a hub offers to whom: profiles, courses and their rosters; who may use what now, and with what limits."""

from __future__ import annotations

from gridcloud.profiles.book import Book
from gridcloud.profiles.model import Choice, Person, Settled, Terms
from gridcloud.profiles.permission import choices_of, settle
from gridcloud.profiles.rosters import Rosters

__all__ = ["Book", "Choice", "Person", "Rosters", "Settled", "Terms", "choices_of", "settle"]
