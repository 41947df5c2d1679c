"""The gateway: all doors to the shares of one gridcloud, and what its links look like."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

from gridcloud import plugins
from gridcloud.clock import Clock
from gridcloud.data.driver import Storage
from gridcloud.data.model import Share
from gridcloud.data.sftp import SFTPDoor
from gridcloud.data.shares import Shares
from gridcloud.data.webdoor import WebDoor
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.settings.shares import SharesSettings
from gridcloud.store import Store

__all__ = ["HERE", "Gateway"]

HERE = "127.0.0.1"


class Gateway:
    """The shares of a store, and their doors where they are open."""

    def __init__(
        self, store: Store, clock: Clock, folder: Path, settings: Callable[[], SharesSettings]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._folder = folder
        self.shares = Shares(store, clock, folder, self.storage_of)
        self._web: WebDoor | None = None
        self._sftp: SFTPDoor | None = None
        self._storages: dict[str, Storage] = {}
        self.url = ""
        """What links begin with; empty while no door is open."""
        self.sftp = ("", 0)
        """The host and port of SFTP."""

    async def start(self) -> None:
        """Open the doors, where the configuration says so."""
        if self._settings().host:
            await self.open()

    async def open(self) -> None:
        """Open the doors. Raises PortTaken, InvalidSettings."""
        settings = self._settings()
        host = settings.host or HERE
        certificate = _certificate(settings, host)
        self._web = WebDoor(self.shares, self._clock, certificate)
        self._sftp = SFTPDoor(self.shares, self._folder)
        try:
            port = await self._web.open(host, settings.port)
            sftp_port = await self._sftp.open(host, settings.sftp_port)
        except BaseException:
            await self._close_doors()
            raise
        shown = f"[{host}]" if ":" in host else host
        self.url = settings.public_url or f"{'https' if certificate else 'http'}://{shown}:{port}"
        self.sftp = (host, sftp_port)

    async def close(self) -> None:
        """Close the doors, and write down what is to be remembered. May be called twice."""
        await self._close_doors()
        await self.shares.close()

    async def storage_of(self, share: Share) -> Storage:
        """Return what keeps a share's files. Raises InvalidSettings, DriverUnavailable."""
        entry: dict[str, object]
        if not share.storage:
            entry = {"driver": "local", "path": share.folder}
        elif (configured := self._settings().storages.get(share.storage)) is not None:
            entry = {name: _for(value, share.owner) for name, value in configured.items()}
        else:
            raise InvalidSettings(
                f"There is no storage {share.storage!r}.", remedy="Add it to shares.storages."
            )
        known = repr(sorted(entry.items()))
        if known not in self._storages:
            self._storages[known] = _storage(share.storage, entry)
        return self._storages[known]

    async def _close_doors(self) -> None:
        web, self._web = self._web, None
        sftp, self._sftp = self._sftp, None
        self.url, self.sftp = "", ("", 0)
        if web is not None:
            await web.close()
        if sftp is not None:
            await sftp.close()


def _storage(name: str, entry: dict[str, object]) -> Storage:
    driver = plugins.load("storages", str(entry.get("driver", "")))
    try:
        found: Storage = driver(driver.Settings.model_validate(entry))
    except GridcloudError:
        raise
    except ValueError as error:
        raise InvalidSettings(f"shares.storages.{name} cannot be used: {error}.") from error
    return found


def _for(value: object, owner: str) -> object:
    """Put the owner's name where an entry says so; never one that leads elsewhere."""
    if not isinstance(value, str) or "{user}" not in value:
        return value
    if not owner or owner.startswith(".") or "/" in owner or "\0" in owner:
        raise InvalidRequest(f"{owner!r} has no folder of their own here: their name is no name of a folder.")
    return value.replace("{user}", owner)


def _certificate(settings: SharesSettings, host: str) -> ssl.SSLContext | None:
    if not settings.certificate:
        if host != "localhost" and not _is_loopback(host):
            raise InvalidSettings(
                f"shares.host: {host} is reached from elsewhere, and without a certificate all is sent in the clear.",
                remedy="Set shares.certificate and shares.key, or listen on 127.0.0.1 behind a server that speaks TLS.",
            )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        if stat.S_IMODE(Path(settings.key).stat().st_mode) & 0o007:
            raise InvalidSettings(
                f"shares.key: everybody on this computer may read {settings.key}.",
                remedy=f"Run: chmod 600 {settings.key}",
            )
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"shares.certificate and shares.key cannot be used: {error}.",
            remedy="Give the certificate and its own private key, both PEM.",
        ) from error
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
