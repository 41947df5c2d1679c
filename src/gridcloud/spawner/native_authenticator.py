"""Accounts that the hub keeps itself: NativeAuthenticator, with a login page that JupyterHub of today can serve."""

from __future__ import annotations

from typing import Any

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


class _LoginHandler(LoginHandler):  # type: ignore[misc]
    """``/hub/login``. The library's own asks for ``statsd``, and shows no faults: JupyterHub changed both."""

    statsd = _Nothing()

    def _render(self, login_error: str | None = None, username: str | None = None, **shown: Any) -> Any:
        # What JupyterHub gives along when it shows a fault is about its own page, but for how it wants the text.
        if not shown.get("sync"):
            return super()._render(login_error=login_error, username=username)
        plain = self.render_template
        self.render_template = lambda name, **more: plain(name, sync=True, **more)
        try:
            return super()._render(login_error=login_error, username=username)
        finally:
            del self.render_template


class HubAccountsAuthenticator(NativeAuthenticator):  # type: ignore[misc]
    """NativeAuthenticator, whose login works."""

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        """Return the library's pages, with the login page mended."""
        return [
            (path, _LoginHandler if kind is LoginHandler else kind, *more)
            for path, kind, *more in super().get_handlers(app)
        ]
