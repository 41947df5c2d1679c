"""The hook ``remote_home``: a folder of the user's on a file server, by a key that the login brought."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gridcloud.errors import InvalidRequest
from gridcloud.hooks.driver import Hook, HookSettings
from gridcloud.hooks.model import Context, Mount, Outcome
from gridcloud.hooks.templates import fill_safely, placeholders
from gridcloud.identity.credentials import Secret
from gridcloud.settings.values import Duration

__all__ = ["RemoteHomeHook", "RemoteHomeSettings"]


def _as_many(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class RemoteHomeSettings(HookSettings):
    """Mount a folder of the user's from an SSH file server, by SSHFS, for as long as the session lives."""

    host: str = Field(min_length=1, description="the file server, e.g. files.example.org")
    port: int = Field(default=22, ge=1, le=65535, description="its SSH port")
    host_keys: Annotated[tuple[str, ...], BeforeValidator(_as_many)] = Field(
        min_length=1, description="its public host keys, one or a list, each TYPE BASE64; another is refused"
    )
    account: str = Field(default="{JUPYTERHUB_USER}", description="account there")
    folder: str = Field(default="", description="folder there; empty: the account's home")
    key: str = Field(
        description="where in the login the private key is: '{auth_state.…}'; it is not written into the configuration"
    )
    certificate: str = Field(
        default="", description="where in the login the certificate of that key is; empty: it has none"
    )
    at: str = Field(default="remote", description="where it appears, below the session's home")
    life: Duration = Field(
        default=43200,
        ge=1,
        description="after how long the key is forgotten, e.g. 12h; what is open stays open",
    )
    read_only: bool = Field(default=False, description="whether nothing may be written")
    optional: bool = Field(
        default=False, description="start without it where the login brought no key, in place of refusing"
    )


class RemoteHomeHook(Hook):
    """Reads the key from the login and passes it on; nothing is opened before the session's machine does."""

    Settings = RemoteHomeSettings
    settings: RemoteHomeSettings

    async def run(self, context: Context) -> Outcome:
        settings, words = self.settings, context.words()
        needed = placeholders(settings.key)
        if settings.optional and any(name not in words for name in needed):
            return Outcome()
        key = fill_safely(settings.key, words)
        if not needed or not key.lstrip().startswith("-----BEGIN "):
            raise InvalidRequest("The login brought no private key for the file server.")
        mount = Mount(
            host=settings.host,
            port=settings.port,
            account=fill_safely(settings.account, words),
            folder=fill_safely(settings.folder, words),
            key=Secret(key.strip() + "\n"),
            certificate=fill_safely(settings.certificate, words).strip(),
            host_keys=settings.host_keys,
            at=fill_safely(settings.at, words),
            life=settings.life,
            read_only=settings.read_only,
        )
        return Outcome(mounts=(mount,))
