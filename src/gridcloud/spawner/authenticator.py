"""Log in by the link that ``gridcloud up`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyterhub.auth import Authenticator
from jupyterhub.handlers.login import LoginHandler
from traitlets import Any as AnyTrait

from gridcloud.spawner.hub_files import HubFiles
from gridcloud.spawner.links import claim_link

__all__ = ["LinkAuthenticator", "LinkHandler"]

SPENT = "This link was used already, or is too old. Run 'gridcloud up --link' for a new one."

FORM = """
<form action="{{ authenticator_login_url }}" method="post" class="col-md-6 m-auto">
  <h1>Log in</h1>
  {% if login_error %}<p class="login_error" role="alert">{{ login_error | e }}</p>{% endif %}
  <p>Open the link that <code>gridcloud up</code> printed, or paste its token here.
     <code>gridcloud up --link</code> prints a new one.</p>
  <input type="hidden" name="_xsrf" value="{{ xsrf }}">
  <label for="token_input">Token</label>
  <input id="token_input" name="token" type="password" class="form-control" autocomplete="off" required>
  <button type="submit" class="btn btn-jupyter mt-3">Log in</button>
</form>
"""


class LinkHandler(LoginHandler):
    """``/hub/login``: a link's token in the address is used, and is then gone from it."""

    async def get(self) -> None:
        token = self.get_argument("token", "")
        if not token:
            await super().get()
            return
        self.request.query = ""  # or it would be carried on to the next page
        user = await self.login_user({"token": token})
        if user is None:
            await self._refuse()
            return
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))

    async def post(self) -> None:
        user = await self.login_user({"token": self.get_body_argument("token", "")})
        if user is None:
            await self._refuse()
            return
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))

    async def _refuse(self) -> None:
        self.set_status(403)
        self.finish(await self._render(login_error=SPENT))


class LinkAuthenticator(Authenticator):
    """Lets in the user who runs the hub, by a link used once."""

    files = AnyTrait(help="where the link is kept").tag(config=True)

    def get_handlers(self, app: Any) -> list[tuple[str, type[LinkHandler]]]:
        return [("/login", LinkHandler)]

    def get_custom_html(self, base_url: str) -> str:
        return FORM

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> str | None:
        files: HubFiles = self.files
        return claim_link(files, data.get("token", ""))
