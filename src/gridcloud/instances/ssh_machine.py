"""How a machine is described that is reached by SSH: in the `ssh` driver, and as the machine to go through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gridcloud.connections.model import SSHAddress
from gridcloud.instances.known_hosts import is_public_key, read_known_hosts

__all__ = ["SSHMachine", "Word"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_key(line: str) -> str:
    line = line.strip()
    if not is_public_key(line):
        raise ValueError("must be a public key line such as 'ssh-ed25519 AAAA…'")
    return " ".join(line.split()[:2])


def _check_word(text: str) -> str:
    if not text.isprintable() or len(text.split()) != 1 or text.startswith("-") or text != text.strip():
        raise ValueError("must be one word")
    return text


Word = Annotated[str, AfterValidator(_check_word)]
Keys = Annotated[tuple[Annotated[str, AfterValidator(_check_key)], ...], BeforeValidator(_as_list)]


class SSHMachine(BaseModel):
    """How a machine is reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Word = Field(description="name or address of the machine")
    port: int = Field(default=22, ge=1, le=65535, description="port of its SSH server")
    user: Word = Field(
        description="account to log in with: root, one that may use sudo without a password, or any"
    )
    host_keys: Keys = Field(
        default=(),
        description="the machine's host key, or several, as public key lines; nothing else is accepted",
    )
    host_authorities: Keys = Field(
        default=(), description="public keys of authorities whose host certificates are accepted"
    )
    key: str = Field(
        default="",
        description="private key to log in with: file:PATH, env:NAME or agent:; empty: the provider's",
    )
    jump: SSHMachine | None = Field(
        default=None, description="machine to go through, described in the same way"
    )

    @property
    def label(self) -> str:
        """The machine's name in offers and messages."""
        return self.host if self.port == 22 else f"{self.host}:{self.port}"

    def address(self, key: str, known_hosts: Path | None) -> SSHAddress:
        """Return the address, with what a known_hosts file says where nothing is pinned here.

        Raises InvalidSettings when the file cannot be read.
        """
        keys, authorities = self.host_keys, self.host_authorities
        if not keys and not authorities and known_hosts is not None:
            keys, authorities = read_known_hosts(known_hosts, self.host, self.port)
        return SSHAddress(
            host=self.host,
            port=self.port,
            user=self.user,
            host_keys=keys,
            host_authorities=authorities,
            key=self.key or key,
            jump=self.jump.address(key, known_hosts) if self.jump else None,
        )
