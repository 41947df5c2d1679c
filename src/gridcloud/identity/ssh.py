"""What opens SSH connections gets its keys here: by reference, from an agent, or by certificate."""

from __future__ import annotations

import asyncio

import asyncssh

from gridcloud.errors import InvalidSettings, NotFound, Unavailable
from gridcloud.identity.authority import Authority
from gridcloud.identity.credentials import resolve

__all__ = ["SSHCredentials"]


class SSHCredentials:
    """The credentials of one installation, as `connections.driver.Credentials` asks for.

    ``user`` is named in the certificates it gets, which last ``seconds``.
    """

    def __init__(self, authority: Authority, user: str = "gridcloud", seconds: int = 3600) -> None:
        self._authority = authority
        self._user = user
        self._seconds = seconds
        self._agent: asyncssh.SSHAgentClient | None = None

    async def private_key(self, reference: str) -> asyncssh.SSHKey | asyncssh.SSHKeyPair:
        """Return the key for ``file:PATH``, ``env:NAME``, ``keyring:SERVICE/USER``, ``agent:`` (its first key) or
        ``agent:COMMENT``; for '' the service's own key.

        Raises NotFound when there is none, Forbidden when it may be read by others or not by us, InvalidSettings
        when it is no private key.
        """
        if not reference:
            return self._authority.service_key
        form, _, rest = reference.partition(":")
        if form == "agent":
            return await self._agent_key(rest)
        secret = await asyncio.to_thread(resolve, reference)
        try:
            return asyncssh.import_private_key(secret.reveal_bytes())
        except (asyncssh.KeyImportError, ValueError) as error:
            # asyncssh has no class of its own for this case, and only the advice depends on it.
            if "passphrase" in str(error).lower():
                raise InvalidSettings(
                    f"The key {reference} is protected by a passphrase.",
                    remedy="Add it to an SSH agent and write agent:.",
                ) from error
            raise InvalidSettings(f"{reference} is no private SSH key: {error}.") from error

    async def user_certificate(self, principal: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        """Return a new key, kept in memory only, with a certificate for the principal. Raises InvalidRequest."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        public = key.export_public_key().decode()
        return key, self._authority.user_certificate(public, self._user, [principal], self._seconds)

    async def close(self) -> None:
        """Let go of the agent. May be called twice."""
        if self._agent is not None:
            agent, self._agent = self._agent, None
            agent.close()
            await agent.wait_closed()

    async def _agent_key(self, comment: str) -> asyncssh.SSHKeyPair:
        try:
            if self._agent is None:
                self._agent = await asyncssh.connect_agent()
            keys = await self._agent.get_keys()
        except (OSError, ValueError) as error:
            await self.close()
            raise Unavailable(
                f"The SSH agent does not answer: {error}.",
                remedy="Start one and set SSH_AUTH_SOCK for gridcloud.",
            ) from error
        found = [key for key in keys if comment in ("", _comment(key))]
        if not found:
            have = ", ".join(_comment(key) for key in keys) or "none"
            raise NotFound(
                f"The SSH agent has no key {comment!r}; it has: {have}.", remedy="Run: ssh-add FILE"
            )
        return found[0]


def _comment(key: asyncssh.SSHKeyPair) -> str:
    return key.get_comment() or ""
