"""Log in as whom a front server says in its headers, and only if it was that server.

The hub's own proxy stands between: it appends the address of whoever connected to it to ``X-Forwarded-For``. That is
worth something only in requests that came through that proxy, for the hub's port is open to every session. So the
proxy brings ``/hub/login`` to a socket (`gridcloud.spawner.login_door`) that nobody else can open.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.auth import Authenticator
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.login import LogoutHandler
from jupyterhub.user import User
from jupyterhub.utils import url_path_join
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import default

from gridcloud.errors import InvalidSettings
from gridcloud.identity.credentials import Secret, resolve
from gridcloud.settings.login import HeaderSettings
from gridcloud.spawner.headers import NAME, address_of, is_trusted, listed, parse_header, parse_json
from gridcloud.spawner.login import OWN

__all__ = [
    "HeaderAuthenticator",
    "HeaderLoginHandler",
    "HeaderLogoutHandler",
    "UserDataHandler",
    "front_secret",
]

LARGEST = 65536
"""Bytes of what a page may set."""

SHORTEST_SECRET = 16

STRANGER = "Log in through the front page of this hub."
LEAKED = (
    "The front server sends its secret with other pages than /hub/login, so that every session can read it. "
    "Have it sent with /hub/login only, and change it."
)


class HeaderLoginHandler(BaseHandler):
    """``GET /hub/login``: the front server's headers say who it is."""

    async def get(self) -> None:
        user = await self.login_user()
        if user is None:
            raise HTTPError(403, "You may not use this hub. Ask its administrator.")
        self._jupyterhub_user = user
        self.redirect(self._next(user))

    def _next(self, user: User) -> str:
        """Return where to go: a page of this host."""
        home = str(url_path_join(self.hub.base_url, "home"))
        wanted = str(self.get_next_url(user, default=self.default_url or home))
        place = urlsplit(wanted)
        if place.scheme or place.netloc or not wanted.startswith("/") or wanted[1:2] in ("/", "\\"):
            return home
        return wanted


class HeaderLogoutHandler(LogoutHandler):
    """``GET /hub/logout``: logged out here, then off to the front server's own logout."""

    async def render_logout_page(self) -> None:
        _complain_of_leak(self)
        if target := self.authenticator.settings.logout_url:
            self.redirect(target, permanent=False)
        else:
            await super().render_logout_page()


class UserDataHandler(BaseHandler):
    """``POST /hub/set-user-data``: a page of the front server sets values of the user who looks at it.

    As any POST it needs the XSRF token of this browser's session. The values are the user's own word: they are kept
    apart from the headers and never tell who somebody is.
    """

    async def post(self) -> None:
        user = self.current_user
        if not isinstance(user, User) or getattr(self, "_token_authenticated", False):
            raise HTTPError(403)
        _complain_of_leak(self)
        settable = self.authenticator.settings.settable
        if len(self.request.body) > LARGEST:
            self._answer(413, f"More than {LARGEST} bytes.")
            return
        given = parse_json(self.request.body)
        if not isinstance(given, dict) or not given:
            self._answer(400, "An object with values is needed.")
            return
        if strange := [name for name in given if name not in settable]:
            self._answer(
                400, f"{strange[0][:60]!r} cannot be set; there are: {', '.join(settable) or 'none'}."
            )
            return
        async with self.authenticator.saving:
            state = await user.get_auth_state() or {}
            data = {**state.get("data", {}), **given}
            if len(json.dumps(data)) > LARGEST:
                self._answer(413, f"More than {LARGEST} bytes in all.")
                return
            await user.save_auth_state({**state, "data": data})
        self._answer(200, "")

    def _answer(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish({"set": True} if status == 200 else {"message": message})


class HeaderAuthenticator(Authenticator):
    """Lets in whom the front server names."""

    settings = AnyTrait(help="a HeaderSettings: which headers, and who may set them").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.settings, HeaderSettings):
            raise InvalidSettings(
                "The HeaderAuthenticator needs its section hub.header, which says who may set the headers."
            )
        self._secret = front_secret(self.settings)
        self.saving = asyncio.Lock()
        """Held while a user's state is read, changed and written."""

    @default("auto_login")
    def _auto_login(self) -> bool:
        return True

    @default("enable_auth_state")
    def _enable_auth_state(self) -> bool:
        return True

    @default("manage_groups")
    def _manage_groups(self) -> bool:
        return bool(self.settings.groups)

    @default("allow_existing_users")
    def _allow_existing_users(self) -> bool:
        return False  # or whoever was in once would stay in: a group that was left would count for ever

    @default("reconcile_auth_state_hook")
    def _reconcile(self) -> Any:
        return _keep_data

    def get_handlers(self, app: Any) -> list[tuple[str, type[BaseHandler]]]:
        return [
            ("/login", HeaderLoginHandler),
            ("/logout", HeaderLogoutHandler),
            ("/set-user-data", UserDataHandler),
        ]

    async def authenticate(self, handler: Any, data: Any = None) -> dict[str, Any]:
        """Return who the headers say it is. Raises HTTPError: 403 from strangers, 401 when they name nobody."""
        self._check_source(handler.request)
        subject = self._read(handler.request, self.settings.user)
        if not isinstance(subject, str) or not subject:
            raise HTTPError(401, "The front page of this hub did not say who you are.")
        # Lower case of other scripts may be ASCII: 'K' (KELVIN SIGN) is no 'k'.
        name = subject.lower() if subject.isascii() else ""
        if not NAME.fullmatch(name):
            raise HTTPError(
                403,
                "Your name at the front page cannot be a user name here: it has 1 to 63 of a-z, 0-9 and . _ @ + -. "
                "Ask the hub's administrator.",
            )
        state = self._state(handler.request)
        state["subject"] = self._subject(handler.request)
        groups = listed(self._read(handler.request, self.settings.groups)) if self.settings.groups else None
        await self._compare(handler, name, state["subject"])
        found = {"name": name, "auth_state": state}
        return found if groups is None else {**found, "groups": groups}

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """Tell whether somebody may log in: by name, or by a group."""
        groups = (authentication or {}).get("groups") or ()
        if not set(self.settings.allowed_groups).isdisjoint(groups):
            return True
        return bool(super().check_allowed(username, authentication))

    def _check_source(self, request: Any) -> None:
        """Raise HTTPError unless the front server sent this."""
        settings = self.settings
        if settings.trusted_proxies:
            address = address_of(request.headers.get_list("X-Forwarded-For"))
            came_by_proxy = request.connection.context.address_family == socket.AF_UNIX
            if not came_by_proxy or not is_trusted(address, settings.trusted_proxies):
                where = address if came_by_proxy else "this computer or a session, past the hub's proxy"
                self.log.warning("A login by header was refused: it came from %s.", where)
                raise HTTPError(403, STRANGER)
        if self._secret is not None:
            given = request.headers.get_list(settings.secret_header)
            said = given[0].encode("latin-1", "replace") if len(given) == 1 else b""
            if not hmac.compare_digest(said, self._secret.reveal_bytes()):
                self.log.warning("A login by header was refused: it came without the front server's secret.")
                raise HTTPError(403, STRANGER)
        for name, value in settings.required.items():
            if request.headers.get_list(name) != [value]:
                self.log.warning("A login by header was refused: %s is not as required.", name)
                raise HTTPError(403, STRANGER)

    def _read(self, request: Any, header: str) -> Any:
        """Return what a header says; None for one that came several times."""
        values = request.headers.get_list(header)
        parsers = {name.lower(): parser for name, parser in self.settings.parsers.items()}
        text = values[0] if len(values) == 1 else None
        parser = parsers.get(header.lower())
        return parse_header(text, parser) if parser is not None else parse_header(text)

    def _subject(self, request: Any) -> str:
        """Return whom the front server named, before anything in it was replaced."""
        for name, parser in self.settings.parsers.items():
            if name.lower() == self.settings.user.lower() and parser.replace:
                plain = parser.model_copy(update={"replace": {}})
                return str(parse_header(request.headers.get(name), plain)).lower()
        return str(self._read(request, self.settings.user)).lower()

    def _state(self, request: Any) -> dict[str, Any]:
        settings = self.settings
        headers = {name: self._read(request, name) for name in settings.keep}
        own = {
            "addresses": [one.lower() for one in listed(self._read(request, settings.addresses))]
            if settings.addresses
            else [],
            "contexts": listed(self._read(request, settings.contexts)) if settings.contexts else [],
        }
        kept = {name: value for name, value in headers.items() if value is not None}
        return {"headers": kept, "data": {}, OWN: own}

    async def _compare(self, handler: Any, name: str, subject: str) -> None:
        """Raise HTTPError when the name is that of somebody else at the front server."""
        user = handler.find_user(self.normalize_username(name))
        before = (await user.get_auth_state() if user is not None else None) or {}
        if before.get("subject", subject) != subject:
            self.log.warning(
                "%s was refused: somebody else at the front server has the same name here.", name
            )
            raise HTTPError(403, "Somebody else has your name here. Ask the hub's administrator.")


def front_secret(settings: HeaderSettings) -> Secret | None:
    """Return the secret that the front server sends; None where none is asked for.

    Raises InvalidSettings when it is too short, and what `resolve` raises.
    """
    if not settings.secret:
        return None
    secret = Secret(resolve(settings.secret).reveal_bytes().strip())
    if len(secret.reveal_bytes()) < SHORTEST_SECRET:
        raise InvalidSettings(
            f"The secret of hub.header has fewer than {SHORTEST_SECRET} characters.",
            remedy="Make one: openssl rand -hex 32",
        )
    return secret


def _keep_data(authenticator: Any, model: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    """Return the state to be written: what its user had set outlives the next login."""
    return {**model["auth_state"], "data": (before or {}).get("data", {})}


def _complain_of_leak(handler: Any) -> None:
    if handler.request.headers.get(handler.authenticator.settings.secret_header):
        handler.log.error(LEAKED)
