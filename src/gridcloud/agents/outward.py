"""HTTP to where we were pointed, and nowhere else: no redirection, no password of the user's, the environment's proxy.

aiohttp's own way to the environment's proxies (`trust_env`) also tells each host the password that ~/.netrc has for it,
and `ws_connect` cannot be told to follow no redirection; so both are done here.
"""

from __future__ import annotations

import socket
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from gridcloud.connections.keepalive import keep_alive

__all__ = ["Redirected", "environment_proxy", "kept_alive", "stay"]


class Redirected(aiohttp.ClientError):
    """Who was asked names another address, which is not followed."""


async def stay(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Follow no redirection, for it could name any service that only we reach: a middleware of a session."""
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise Redirected(f"it redirects elsewhere (HTTP status {response.status})")
    return response


def environment_proxy(url: str) -> URL | None:
    """Return the HTTP proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for an address, None for none."""
    try:
        target = URL(url)
    except ValueError:  # nobody is there
        return None
    if target.host is None or proxy_bypass(target.host):
        return None
    named = getproxies().get(target.scheme)
    proxy = URL(named if "://" in named else f"http://{named}") if named else None
    return proxy if proxy is not None and proxy.host else None


def kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return the socket of a connection that is noticed as lost soon after its other end has vanished."""
    family, kind, protocol, _, _ = address
    connection = socket.socket(family, kind, protocol)
    keep_alive(connection)
    return connection
