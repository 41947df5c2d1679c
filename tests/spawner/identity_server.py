"""A server that speaks OpenID Connect's authorization code flow with PKCE, strictly, for one user at a time."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

__all__ = ["IdentityServer"]


class IdentityServer:
    """Lets whoever asks be ``claims``."""

    client_id = "the-hub"

    def __init__(self, client_secret: str) -> None:
        self.client_secret = client_secret
        self.claims: dict[str, Any] = {}
        self.callback = ""
        """The only address that browsers are sent back to."""
        self.url = ""
        self._codes: dict[str, dict[str, str]] = {}
        self._tokens: set[str] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> IdentityServer:
        application = web.Application()
        application.router.add_get("/authorize", self._authorize)
        application.router.add_post("/token", self._token)
        application.router.add_get("/userinfo", self._userinfo)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        if asked.get("redirect_uri") != self.callback or asked.get("client_id") != self.client_id:
            raise web.HTTPBadRequest(text="redirect_uri or client_id")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            raise web.HTTPBadRequest(text="response_type or code_challenge_method")
        if "openid" not in asked.get("scope", "").split() or not asked.get("state"):
            raise web.HTTPBadRequest(text="scope or state")
        code = secrets.token_urlsafe()
        self._codes[code] = asked
        raise web.HTTPFound(f"{self.callback}?{urlencode({'code': code, 'state': asked['state']})}")

    async def _token(self, request: web.Request) -> web.Response:
        sent = dict(await request.post())
        if request.headers.get("Authorization", "").startswith("Basic "):
            pair = base64.b64decode(request.headers["Authorization"][6:]).decode()
            sent["client_id"], _, sent["client_secret"] = pair.partition(":")
        asked = self._codes.pop(str(sent.get("code")), None)
        verifier = str(sent.get("code_verifier", "")).encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=").decode()
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or sent.get("redirect_uri") != self.callback
            or (sent.get("client_id"), sent.get("client_secret")) != (self.client_id, self.client_secret)
        ):
            return web.json_response({"error": "invalid_grant", "error_description": "no"}, status=400)
        token = secrets.token_urlsafe()
        self._tokens.add(token)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 300})

    async def _userinfo(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            raise web.HTTPUnauthorized
        return web.json_response(self.claims)
