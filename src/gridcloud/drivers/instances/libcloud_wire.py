"""Objects of libcloud's driver, of which each serves one call at a time: its connections are not made for threads."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from libcloud.compute.providers import get_driver

from gridcloud.drivers.instances.libcloud_settings import LibcloudSettings, is_reference
from gridcloud.drivers.instances.libcloud_words import translate
from gridcloud.errors import GridcloudError, InvalidSettings

__all__ = ["Wire"]

T = TypeVar("T")

AT_ONCE = 4
"""Calls at the same time."""

KNOWN = 60
"""Seconds for which sizes, images, locations and networks are believed."""


class Wire:
    """Asks a provider through libcloud."""

    def __init__(self, settings: LibcloudSettings, secret: Callable[[str], Awaitable[Any]]) -> None:
        self._settings = settings
        self._secret = secret
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._idle: list[Any] = []
        self._known: dict[str, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """How messages name whom we ask."""
        return f"libcloud's {self._settings.compute}"

    async def ask(self, call: Callable[[Any], T]) -> T:
        """Return what a call gives, which is handed libcloud's driver, in a thread. Raises what `translate` gives."""
        async with self._gate:
            with self._lock:
                driver = self._idle.pop() if self._idle else None
            if driver is None:
                driver = await self._make()
            refused = False
            try:
                return await asyncio.to_thread(self._guarded, call, driver)
            except InvalidSettings:
                refused = True
                raise
            finally:
                with self._lock:
                    self._idle.append(driver)
                if (
                    refused
                ):  # perhaps the credentials: whoever asks next reads them anew, as they may be right then
                    self.forget()

    def remember(self, what: str, look: Callable[[], T]) -> T:
        """Return what was seen within the last minute, or what is seen now."""
        now = time.monotonic()
        known = self._known.get(what)
        if known is None or now - known[0] > KNOWN:
            known = self._known[what] = (now, look())
        value: T = known[1]
        return value

    def forget(self) -> None:
        """Believe nothing that was seen, and let go of all connections."""
        self._known.clear()
        with self._lock:
            idle, self._idle = self._idle, []
        for driver in idle:
            session = getattr(
                getattr(getattr(driver, "connection", None), "connection", None), "session", None
            )
            if session is not None:
                session.close()

    async def _make(self) -> Any:
        arguments = {
            name: (await self._secret(value)).reveal().strip() if is_reference(value) else value
            for name, value in self._settings.arguments.items()
        }
        return await asyncio.to_thread(self._guarded, lambda kind: kind(**arguments), self._kind())

    def _kind(self) -> Any:
        module, colon, name = self._settings.compute.partition(":")
        try:
            return getattr(importlib.import_module(module), name) if colon else get_driver(module)
        except (
            ImportError,
            AttributeError,
        ) as error:  # libcloud says AttributeError for a name it does not know
            raise InvalidSettings(
                f"There is no libcloud compute driver {self._settings.compute!r}: {error}.",
                remedy="Set 'compute' to one of libcloud's (ec2, openstack, digitalocean, gce, …) or to module:Class.",
            ) from error

    def _guarded(self, call: Callable[[Any], T], driver: Any) -> T:
        try:
            return call(driver)
        except GridcloudError:
            raise
        except TypeError as error:
            raise InvalidSettings(
                f"{self.label} does not take what it is given: {error}.",
                remedy="Correct 'arguments', 'create' or 'list_images' of the provider's entry.",
            ) from error
        except Exception as error:  # libcloud's drivers raise plain Exception, too
            raise translate(error, self.label) from error
