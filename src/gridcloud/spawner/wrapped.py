"""Another spawner of JupyterHub that starts the sessions of a profile, in place of gridcloud's own.

It is made anew for each start, and again from the hub's database after the hub's restart. It gets only traits that its
class declares, and of what its user chose only what its own form makes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from jupyterhub.spawner import Spawner, SpawnException
from jupyterhub.utils import maybe_future
from tornado.web import HTTPError
from traitlets import All, TraitError
from traitlets.config import Config

from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, InvalidSettings, TimedOut, Unavailable
from gridcloud.profiles.placeholders import fill
from gridcloud.settings.profiles import SpawnerSettings
from gridcloud.spawner.form_fields import check_fields

__all__ = ["HOOK_REFUSED", "Wrapped", "load_spawner"]

HOOK_REFUSED = "The hub's own hook before the start, Spawner.pre_spawn_hook, returned False."

OURS = ("session_spawner.GridcloudSpawner", "gridcloud.spawner.GridcloudSpawner")

HANDED_ON = (
    "user", "orm_spawner", "hub", "authenticator", "config", "proxy_spec", "_deprecated_db_session", "oauth_client_id",
    "cookie_options", "cookie_host_prefix_enabled", "public_url", "public_hub_url", "internal_ssl",
    "internal_trust_bundles", "internal_certs_location", "cert_paths", "trusted_alt_names", "api_token",
    "admin_access", "handler",
)  # fmt: skip
"""What JupyterHub told the outer spawner, for the inner one."""

AS_SENT = (Spawner._passthrough_options_from_form, Spawner._simple_options_from_form)
"""How JupyterHub makes options of a form where a spawner does not say how: they are whatever was sent."""


class Wrapped:
    """One session of a profile that another spawner starts: that spawner, and what makes it again."""

    def __init__(self, outer: Spawner, settings: SpawnerSettings, environment: Mapping[str, str]) -> None:
        """Make the spawner. Raises InvalidSettings when its class cannot be had, or a trait is not its own."""
        self.settings = settings
        self.environment = dict(environment)
        self.spawner = _make(outer, settings, self.environment)
        self._begun = asyncio.Event()
        self._outer = outer
        self._started = False
        self._adopted = False
        self._secret: dict[str, str] = {}
        own = self.spawner.get_env
        # Beside its own: a spawner may keep its environment, or fill placeholders in it.
        self.spawner.get_env = lambda: own() | self._secret

    def get_state(self) -> dict[str, Any]:
        """Return what makes it again after the hub's restart."""
        return {
            "class": self.settings.class_,
            "kwargs": self.settings.kwargs,
            "environment": self.environment,
            "started": self._started,
            "state": self.spawner.get_state(),
        }

    @classmethod
    def of_state(cls, outer: Spawner, state: Mapping[str, Any]) -> Wrapped:
        """Return it as it was before the hub's restart. Raises InvalidSettings when its class is there no more."""
        settings = SpawnerSettings.model_validate({"class": state["class"], "kwargs": state["kwargs"]})
        found = cls(outer, settings, state.get("environment") or {})
        found.spawner.load_state(state.get("state") or {})
        found._started = bool(state.get("started"))
        found._adopted = True
        found._begun.set()
        return found

    async def form(self) -> str:
        """Return the HTML of the spawner's own form; nothing where it has none."""
        return str(await self.spawner.get_options_form() or "")

    async def start(
        self,
        outer: Spawner,
        fields: Mapping[str, list[Any]],
        given: Mapping[str, str] | None = None,
        *,
        left: Mapping[str, Any] | None = None,
        keep: Callable[[], None] = lambda: None,
    ) -> Any:
        """Return where the session answers, as JupyterHub expects it. ``fields``: what was sent of its own form;
        ``given``: more of its environment, which is not kept; ``left``: the state that the one before it has left;
        ``keep`` stores the state, at each change while it starts: a hub that dies finds what it has begun.

        Raises InvalidRequest for fields that it does not take, TimedOut after its own ``start_timeout``, and what it
        raises. Cancelled or failed, it is told to stop.
        """
        spawner = self.spawner
        if left:
            spawner.load_state(dict(left))
        spawner.clear_state()  # before it has its token, which this would forget
        for name in ("api_token", "handler", "cert_paths"):
            setattr(spawner, name, getattr(outer, name))
        self._secret = {**outer.login.environment, **(given or {})}
        await spawner.run_auth_state_hook(await outer.user.get_auth_state())
        spawner.user_options = await self._options(fields)
        await spawner.apply_group_overrides()
        await spawner._run_apply_user_options(spawner.user_options)
        if await maybe_future(spawner.run_pre_spawn_hook()) is False:
            raise Forbidden(HOOK_REFUSED)
        self._share_address()
        self._begun.set()
        try:
            with _kept(spawner, keep):
                async with asyncio.timeout(spawner.start_timeout):
                    url = await maybe_future(spawner.start())
        except TimeoutError as error:
            await self._give_up()
            raise TimedOut(
                f"{self.settings.class_} did not start the session within {spawner.start_timeout} seconds."
            ) from error
        except (asyncio.CancelledError, GridcloudError, HTTPError, SpawnException):
            await self._give_up()
            raise
        except Exception as error:
            await self._give_up()
            raise Unavailable(f"{self.settings.class_} failed: {type(error).__name__}: {error}") from error
        outer.api_token = spawner.api_token
        outer.will_resume = spawner.will_resume
        self._started = True
        return url

    async def poll(self) -> int | None:
        """Return None while it runs, else its exit status; 0 before it began.

        One whose hub died while it was being started is ended: nobody waits for it any more.
        """
        if not self._begun.is_set():
            return 0
        if self._adopted and not self._started:
            await self._give_up()
            return 0
        self._share_address()
        status: int | None = await maybe_future(self.spawner.poll())
        return status

    async def stop(self, now: bool) -> None:
        """End the session."""
        if self._begun.is_set():
            await maybe_future(self.spawner.stop(now=now))

    async def ended(self) -> None:
        """Do what the spawner does once its session has ended."""
        try:
            await maybe_future(self.spawner.run_post_stop_hook())
        finally:
            self.spawner.clear_state()
            self._started = False

    async def delete_forever(self) -> None:
        """Have the spawner delete what outlives its sessions, such as a volume."""
        await maybe_future(self.spawner.delete_forever())

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the spawner's own steps, once it has begun."""
        await self._begun.wait()
        async for step in self.spawner.progress():
            yield step

    async def _options(self, fields: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Return what the spawner's own form makes of the fields: the REST API comes through here, too."""
        form = await self.form()
        if not form:
            if fields:
                raise InvalidRequest(
                    f"There is nothing to choose of {', '.join(sorted(map(repr, fields)))[:200]}."
                )
            return {}
        if self.spawner.options_from_form in AS_SENT:
            check_fields(form, fields)
        try:
            options: dict[str, Any] = await maybe_future(self.spawner.run_options_from_form(dict(fields)))
        except GridcloudError:
            raise
        except Exception as error:
            raise InvalidRequest(
                f"{self.settings.class_} does not take that: {error or type(error).__name__}."
            ) from error
        return options

    def _share_address(self) -> None:
        """Have one record of where the session answers: the spawner may look whether that has changed."""
        self.spawner._server = self._outer.server

    async def _give_up(self) -> None:
        try:
            await asyncio.shield(maybe_future(self.spawner.stop(now=True)))
        except Exception as error:
            self.spawner.log.warning("%s: what it had begun: %s", self.spawner._log_name, error)


@contextlib.contextmanager
def _kept(spawner: Spawner, keep: Callable[[], None]) -> Iterator[None]:
    """Have a spawner's state kept whenever it changes, while the context is open."""
    last = None

    def look(_: object) -> None:
        nonlocal last
        with contextlib.suppress(Exception):  # some spawners have no state before they have all of it
            if (now := spawner.get_state()) != last:
                last = now
                keep()

    spawner.observe(look, All)
    try:
        yield
    finally:
        spawner.unobserve(look, All)


def load_spawner(name: str) -> type[Spawner]:
    """Return a class of spawner by its module and name. Raises InvalidSettings when there is no such spawner."""
    module, _, attribute = name.rpartition(".")
    if name.endswith(OURS):
        raise InvalidSettings(f"{name} is gridcloud's own: leave the profile's spawner out.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(
            f"The spawner {name} cannot be loaded: {error}.", remedy="Install its package beside gridcloud."
        ) from error
    if not isinstance(found, type) or not issubclass(found, Spawner):
        raise InvalidSettings(f"{name} is no spawner of JupyterHub.")
    return found


def _make(outer: Spawner, settings: SpawnerSettings, environment: Mapping[str, str]) -> Spawner:
    kind = load_spawner(settings.class_)
    names = set(kind.class_trait_names(config=True))
    strange = sorted(set(settings.kwargs) - names)
    if strange:
        raise InvalidSettings(
            f"{settings.class_} has no trait {', '.join(strange)} that can be configured.",
            remedy="Mend the profile's kwargs.",
        )
    known = {
        "JUPYTERHUB_USER": outer.user.name,
        "JUPYTERHUB_SERVER_NAME": outer.name,
        "JUPYTERHUB_BASE_URL": outer.hub.base_url,
        "JUPYTERHUB_HOST": outer.hub.public_host,
    }
    try:
        handed_on = {name: getattr(outer, name) for name in HANDED_ON if hasattr(outer, name)}
        spawner = kind(
            **{**handed_on, "config": _with_traits(outer.config, kind, fill(settings.kwargs, known))}
        )
        spawner.environment = {**spawner.environment, **fill(dict(environment), known)}
    except TraitError as error:
        raise InvalidSettings(f"{settings.class_}: {error}") from error
    return spawner


def _with_traits(config: Config, kind: type[Spawner], traits: Mapping[str, Any]) -> Config:
    """Return JupyterHub's configuration with these traits of a class.

    That is how spawners are used to get them: all at once, while they are made. DockerSpawner, given its image before
    its prefix, would make a name of the image and keep it.
    """
    own = Config({**config.get(kind.__name__, {}), **traits})
    return Config({**config, kind.__name__: own})
