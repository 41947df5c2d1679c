"""Who is asking, and how we prove who we are.

What needs asyncssh (`authority`, `keys`, `ssh`) is imported by its full name, so that the rest stays quick to import.
"""

from __future__ import annotations

from gridcloud.identity.credentials import Secret, resolve
from gridcloud.identity.model import Token, User
from gridcloud.identity.tokens import Tokens
from gridcloud.identity.users import Users

__all__ = ["Secret", "Token", "Tokens", "User", "Users", "resolve"]
