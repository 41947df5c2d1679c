"""Who is asking, and how we prove who we are.

What needs asyncssh (`authority`, `keys`, `ssh`) is imported by its full name, so that the rest stays quick to import;
what needs the store is imported when it is asked for: a machine that only dials in has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridcloud.identity.credentials import Secret, resolve
from gridcloud.identity.model import Token, User

if TYPE_CHECKING:
    from gridcloud.identity.tokens import Tokens
    from gridcloud.identity.users import Users

__all__ = ["Secret", "Token", "Tokens", "User", "Users", "resolve"]


def __getattr__(name: str) -> Any:
    if name == "Tokens":
        from gridcloud.identity.tokens import Tokens

        return Tokens
    if name == "Users":
        from gridcloud.identity.users import Users

        return Users
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
