"""Log in as an account of this computer, by PAM: as that account, and as no other whose name is like it."""

from __future__ import annotations

import pwd

from jupyterhub.auth import PAMAuthenticator

__all__ = ["AccountAuthenticator"]


class AccountAuthenticator(PAMAuthenticator):
    """Keeps accounts apart whose names differ in case.

    JupyterHub makes names lower case after it has asked PAM: who has the password of the account Ada would be in as
    ada. Its own remedy, ``pam_normalize_username``, fails for everybody who is named in the configuration and has no
    account.
    """

    def normalize_username(self, username: str) -> str:
        """Return the name as the computer has it; in lower case where it has no such account."""
        try:
            name = pwd.getpwnam(username).pw_name
        except (KeyError, ValueError):
            return str(super().normalize_username(username))
        return str(self.username_map.get(name, name))
