"""The HTTP API of a Kubernetes cluster: calls, and the streams of `exec`.

Who we are and where the cluster is stands in a kubeconfig, or in the service account of the pod that we run in; it is
read again while we go on, so that tokens may be renewed, and is never kept elsewhere. Certificates are verified.
Protocol: https://kubernetes.io/docs/reference/using-api/ , with plain JSON and no models of its 600 kinds.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import logging
import os
import ssl
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
    Unreachable,
    Untrusted,
)

__all__ = ["IN_CLUSTER", "Cluster", "Query", "translate"]

log = logging.getLogger(__name__)

IN_CLUSTER = "in-cluster"
"""Stands for a kubeconfig's path where the service account of our own pod is meant."""

TIMEOUT = 30
"""Seconds for one call."""

BELIEVED = 60
"""Seconds for which credentials are believed before their source is asked again; it knows when they end."""

LARGEST_MESSAGE = 4 << 20
"""Bytes of one message of an exec, at most; clusters send some ten thousand at once."""

Query = Mapping[str, str] | Sequence[tuple[str, str]]


class Cluster:
    """One cluster, by a context of a kubeconfig.

    ``kubeconfig``: path of the file; empty: ``KUBECONFIG``, else ``~/.kube/config``, else our own pod's service
    account; `IN_CLUSTER`: that account. ``context``: its name; empty: the only one.
    """

    def __init__(self, kubeconfig: str = "", context: str = "") -> None:
        self.kubeconfig, self.context = kubeconfig, context
        self._session: aiohttp.ClientSession | None = None
        self._access: _Access | None = None
        self._asking = asyncio.Lock()

    async def call(
        self, method: str, path: str, body: Any = None, query: Query = (), *, seconds: float = TIMEOUT
    ) -> Any:
        """Return the answer, a JSON object. Raises what `translate` gives, Unreachable, InvalidSettings, Untrusted."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body).encode()
        for last in (False, True):
            access = await self._reach()
            headers = access.headers | {"Accept": "application/json", "Content-Type": kind}
            try:
                async with self._http(access).request(
                    method,
                    access.url + path,
                    data=data,
                    params=list(query.items() if isinstance(query, Mapping) else query),
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    allow_redirects=False,  # a cluster sends nobody elsewhere
                    **access.how,
                ) as answer:
                    text = await answer.text(errors="replace")
                    if answer.status == 401 and not last:
                        access.until = 0  # the token may just have been renewed
                        continue
                    if answer.status >= 400:
                        raise translate(
                            answer.status, text, access.name, answer.headers.get("Retry-After", "")
                        )
                    return _read(text, access.name)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                raise _unreachable(access, error, seconds) from error
        raise AssertionError("unreachable")

    async def stream(self, path: str, query: Query) -> aiohttp.ClientWebSocketResponse:
        """Return the websocket of an exec, protocol ``v4.channel.k8s.io``. Raises as `call` does."""
        access = await self._reach()
        pairs = list(query.items() if isinstance(query, Mapping) else query)
        url = access.url + path + "?" + urllib.parse.urlencode(pairs)
        try:
            async with asyncio.timeout(TIMEOUT):
                opened: aiohttp.ClientWebSocketResponse = await self._http(access).ws_connect(
                    url,
                    protocols=("v4.channel.k8s.io",),
                    headers=access.headers,
                    max_msg_size=LARGEST_MESSAGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=5),
                    **access.how,
                )
                return opened
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403, 404):
                await self.call("GET", path, query=pairs)  # says in words what a handshake's refusal does not
            raise translate(error.status, "", access.name) from error
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise _unreachable(access, error, TIMEOUT) from error

    async def close(self) -> None:
        """Let go of the cluster. May be called twice."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def resolve(self) -> tuple[str, str, str]:
        """Return kubeconfig, context and the context's namespace as they are used, none of them empty. Raises
        InvalidSettings."""
        access = await self._reach()
        return access.kubeconfig, access.context, access.namespace

    async def identity(self) -> str:
        """Return what tells this cluster from others that its context's name may come to mean: a digest of its
        authority, or of its address where the authority is a public one. Raises as `resolve` does."""
        return (await self._reach()).identity

    async def _reach(self) -> _Access:
        async with self._asking:
            if self._access is None:
                self._access = await _Access.find(self.kubeconfig, self.context)
            elif time.monotonic() > self._access.until:
                await self._access.renew()
            return self._access

    def _http(self, access: _Access) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, resolver=aiohttp.ThreadedResolver())
            self._session = aiohttp.ClientSession(connector=connector, trust_env=True)
        return self._session


class _Access:
    """Where a cluster is and how we prove who we are."""

    def __init__(
        self, kubeconfig: str, context: str, namespace: str, loader: Any, inline: Mapping[str, bytes]
    ) -> None:
        self.kubeconfig, self.context, self.namespace = kubeconfig, context, namespace
        self._loader, self._inline = loader, inline
        self.name = context if kubeconfig == IN_CLUSTER else f"{context} of {kubeconfig}"
        self.url = ""
        self.headers: dict[str, str] = {}
        self.how: dict[str, Any] = {}
        self.until = 0.0
        self.identity = ""
        self._files: tuple[Any, ...] = ()

    @classmethod
    async def find(cls, kubeconfig: str, context: str) -> _Access:
        found = _kubeconfig(kubeconfig)
        # 600 generated models come with it: not on the loop.
        access = await asyncio.to_thread(_load, found, context)
        await access.renew()
        return access

    async def renew(self) -> None:
        """Read credentials again; a plugin's are asked for anew when they end. Raises InvalidSettings, Untrusted."""
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import ConfigException

        said = Configuration()
        try:
            loaded = self._loader.load_and_set(said)
            if loaded is not None:
                await loaded
        except (ConfigException, OSError, ValueError, KeyError, AssertionError) as error:
            raise InvalidSettings(
                f"The credentials of {self.name} cannot be read: {error}",
                remedy="Try the same context with `kubectl get pods`, and log in again where it asks.",
            ) from error
        _check_trust(said, self.name)
        token = said.api_key.get("BearerToken", "")
        self.headers = {"Authorization": token} if token else {}
        self.url = str(said.host).rstrip("/")
        self.identity = _identify(said, self._inline, self.url)
        files = (said.ssl_ca_cert, said.cert_file, said.key_file)
        if files != self._files or not self.how:
            self._files = files
            self.how = (
                {"ssl": _trusted(said, self._inline, self.name)}
                if self.url.startswith("https:")
                else {"ssl": True}
            )
            for ours, theirs in (("server_hostname", "tls_server_name"), ("proxy", "proxy")):
                if value := getattr(said, theirs, None):
                    self.how[ours] = value
        self.until = time.monotonic() + BELIEVED


def translate(status: int, text: str, cluster: str, retry_after: str = "") -> GridcloudError:
    """Return our error for one of the API: by its status, and for 403 by who refuses."""
    try:
        document = json.loads(text[text.index("{") :])
        said = str(document.get("message") or text)
    except ValueError:
        said = text.strip() or f"HTTP {status}"
    message = f"The cluster {cluster} says: {said[:1000]}"
    if status == 401:
        return InvalidSettings(
            f"The cluster {cluster} does not accept our credentials; they may have expired.",
            remedy="Log in to the cluster again, or put a valid token or certificate into the kubeconfig.",
        )
    if status == 403 and "exceeded quota" in said:
        return QuotaExceeded(
            message, remedy="End something in the namespace, or ask for a larger ResourceQuota."
        )
    if status == 403 and ("must specify" in said or "usage per" in said or "to limit ratio" in said):
        return InvalidRequest(message, remedy="Ask for a shape within the namespace's LimitRange.")
    if status == 429 or (status == 503 and retry_after):
        seconds = f" It asks us to wait {retry_after} s." if retry_after else ""
        return Throttled(
            f"{message}.{seconds}", details={"retry_after": retry_after} if retry_after else None
        )
    kinds: dict[int, type[GridcloudError]] = {
        400: InvalidRequest, 403: Forbidden, 404: NotFound, 409: Conflict, 410: NotFound, 422: InvalidRequest,
    }  # fmt: skip
    kind = kinds.get(status, Transient if status >= 500 else GridcloudError)
    remedy = "An administrator of the cluster grants it by a Role." if kind is Forbidden else ""
    return kind(message, remedy=remedy)


def _read(text: str, cluster: str) -> dict[str, Any]:
    """Return an answer's JSON object. Raises Transient for what is none: half of one, or a proxy's page."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _stranger(text, cluster) from error
    if not isinstance(document, dict):
        raise _stranger(text, cluster)
    return document


def _stranger(text: str, cluster: str) -> Transient:
    return Transient(
        f"The cluster {cluster} does not answer as Kubernetes does: {text[:100]!r}.",
        remedy="See whether a proxy answers in its place; it will be tried again.",
    )


def _kubeconfig(kubeconfig: str) -> str:
    found = kubeconfig or os.environ.get("KUBECONFIG", "")
    if not found:
        usual = Path.home() / ".kube" / "config"
        if usual.exists():
            return str(usual)
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return IN_CLUSTER
        raise InvalidSettings(
            "There is no kubeconfig: KUBECONFIG is not set, and ~/.kube/config does not exist.",
            remedy="Set the provider's 'kubeconfig' to the file that your cluster's administrator gave you.",
        )
    if found == IN_CLUSTER:
        return found
    paths = [str(Path(path).expanduser()) for path in found.split(os.pathsep) if path]
    if not any(Path(path).exists() for path in paths):
        raise InvalidSettings(
            f"There is no kubeconfig {found}.",
            remedy="Set the provider's 'kubeconfig' to a file that exists.",
        )
    return os.pathsep.join(paths)


def _load(kubeconfig: str, context: str) -> _Access:
    """Read a kubeconfig. Raises InvalidSettings when it, or the context, is none."""
    import yaml
    from kubernetes_asyncio.config import ConfigException
    from kubernetes_asyncio.config import incluster_config as own
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader, KubeConfigMerger

    if kubeconfig == IN_CLUSTER:
        folder = Path("/var/run/secrets/kubernetes.io/serviceaccount")
        account = own.InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"))
        place = folder / "namespace"
        namespace = place.read_text() if place.exists() else "default"
        return _Access(kubeconfig, IN_CLUSTER, namespace, account, {})
    try:
        merged = KubeConfigMerger(kubeconfig).config
        named = [str(one["name"]) for one in (merged.value.get("contexts") or [])] if merged else []
        if not context and len(named) != 1:
            raise InvalidSettings(
                f"The kubeconfig {kubeconfig} has {len(named)} contexts, and none is chosen.",
                remedy=f"Set the provider's 'context' to one of: {', '.join(named) or 'none is there'}.",
            )
        name = context or named[0]
        if name not in named:
            raise InvalidSettings(
                f"The kubeconfig {kubeconfig} has no context {name!r}.",
                remedy=f"Set the provider's 'context' to one of: {', '.join(named) or 'none is there'}.",
            )
        loader = KubeConfigLoader(config_dict=merged, config_base_path=None, active_context=name)
        chosen = (loader.current_context or {})["context"]
        inline = _take_inline(merged, "clusters", "cluster", chosen["cluster"], ("certificate-authority",))
        keys = ("client-certificate", "client-key")
        inline |= _take_inline(merged, "users", "user", chosen.get("user", ""), keys)
        loader = KubeConfigLoader(config_dict=merged, config_base_path=None, active_context=name)
    except (
        ConfigException,
        yaml.YAMLError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise InvalidSettings(f"The kubeconfig {kubeconfig} cannot be read: {error}") from error
    return _Access(kubeconfig, name, str(chosen.get("namespace") or "default"), loader, inline)


def _take_inline(merged: Any, kind: str, what: str, name: str, keys: Sequence[str]) -> dict[str, bytes]:
    """Take certificates and keys out of what a kubeconfig holds itself: the library would put them into files."""
    node = merged[kind].get_with_name(name, safe=True) if merged.safe_get(kind) else None
    values = node[what].value if node is not None and node.safe_get(what) else {}
    found = {}
    for key in keys:
        data = values.pop(f"{key}-data", "")
        if data:
            found[key] = base64.b64decode("".join(data.split()), validate=True)
            values.pop(key, None)
    return found


def _check_trust(said: Any, name: str) -> None:
    """Refuse to send a token to whoever answers. Raises Untrusted."""
    parts = urllib.parse.urlsplit(str(said.host))
    if not said.verify_ssl:
        raise Untrusted(
            f"The context {name} turns off the check of the cluster's certificate.",
            remedy="Put the cluster's certificate-authority into the kubeconfig in place of insecure-skip-tls-verify.",
        )
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise Untrusted(
            f"The context {name} reaches its cluster without encryption.", remedy="Use its https address."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trusted(said: Any, inline: Mapping[str, bytes], name: str) -> ssl.SSLContext:
    try:
        authority = inline.get("certificate-authority", b"").decode() or None
        trusted = ssl.create_default_context(cafile=said.ssl_ca_cert or None, cadata=authority)
        certificate = inline.get("client-certificate")
        if certificate:
            # Python takes a key from a file only; this one is in memory, and ours alone.
            with os.fdopen(os.memfd_create("client"), "wb") as file:
                file.write(certificate + b"\n" + inline.get("client-key", b""))
                file.flush()
                trusted.load_cert_chain(f"/proc/self/fd/{file.fileno()}", said.key_file or None)
        elif said.cert_file:
            trusted.load_cert_chain(said.cert_file, said.key_file)
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"The certificates of {name} cannot be used: {error}") from error
    return trusted


def _identify(said: Any, inline: Mapping[str, bytes], url: str) -> str:
    authority = inline.get("certificate-authority", b"")
    if not authority and said.ssl_ca_cert:
        try:
            authority = Path(said.ssl_ca_cert).read_bytes()
        except OSError as error:
            raise InvalidSettings(f"The certificates of {url} cannot be used: {error}") from error
    return hashlib.sha256(b"".join(authority.split()) or url.encode()).hexdigest()[:32]


def _unreachable(access: _Access, error: Exception, seconds: float) -> GridcloudError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Untrusted(
            f"What answers for the cluster {access.name} at {access.url} has another certificate: {error}",
            remedy="Compare the certificate-authority in the kubeconfig with the cluster's.",
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"The cluster {access.name} at {access.url} did not answer within {seconds:g} s.")
    return Unreachable(
        f"The cluster {access.name} at {access.url} cannot be reached: {error or type(error).__name__}",
        remedy="Is the network, or the VPN to the cluster, up?",
    )
