"""Accounts that the hub keeps itself: NativeAuthenticator, with a login page that JupyterHub of today can serve."""

from __future__ import annotations

from typing import Any

from jupyterhub.handlers import BaseHandler
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.handlers import LoginHandler

__all__ = ["HubAccountsAuthenticator"]


class _Nothing:
    """A clock for figures that nobody reads."""

    def timer(self, _name: str) -> _Nothing:
        return self

    def start(self) -> _Nothing:
        return self

    def stop(self, send: bool = True) -> None:
        """Measure nothing."""


class _LoginHandler(LoginHandler):
    """``/hub/login``. The library's own asks for ``statsd``, and shows no faults: JupyterHub changed both."""

    statsd = _Nothing()

    def render_template(self, name: str, **shown: Any) -> Any:
        """Show a fault on the page of faults: the library's own page for logins cannot hold it."""
        if name == "error.html":
            return BaseHandler.render_template(self, name, **shown)
        return super().render_template(name, **shown)


class HubAccountsAuthenticator(NativeAuthenticator):
    """NativeAuthenticator, whose login works."""

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        """Return the library's pages, with the login page mended."""
        return [
            (path, _LoginHandler if kind is LoginHandler else kind, *more)
            for path, kind, *more in super().get_handlers(app)
        ]
