"""How drivers speak to Oracle's cloud, those of machines and of clusters: the account, clients, pages, refusals.

Every call is signed by the official SDK with the key that the user's own configuration file names. The SDK's retries
and circuit breakers are off: who retries is the runner, which knows what for.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotAuthenticated,
    NotFound,
    QuotaExceeded,
    Rejected,
    Throttled,
    TimedOut,
    Transient,
    Unreachable,
)
from gridcloud.settings import ProviderSettings

# Without it, older versions of the SDK import all of their 150 services with the first.
os.environ.setdefault("OCI_PYTHON_SDK_NO_SERVICE_IMPORTS", "1")

__all__ = [
    "ENDED",
    "AccountSettings",
    "Wire",
    "begin_once",
    "code_of",
    "find_compartment",
    "gather",
    "is_ours",
    "make_once",
    "translate",
]

SECONDS = (5.0, 20.0)
"""How long a connection and an answer may take."""
AT_ONCE = 8
"""Calls at the same time; the SDK keeps ten connections."""

ENDED = frozenset({"TERMINATING", "TERMINATED"})
TRIES = 50
"""How often a retry token that is used up is replaced: it is remembered for a day."""

CLIENTS = {
    "compute": ("oci.core", "ComputeClient", "iaas"),
    "storage": ("oci.core", "BlockstorageClient", "iaas"),
    "network": ("oci.core", "VirtualNetworkClient", "iaas"),
    "identity": ("oci.identity", "IdentityClient", "identity"),
    "limits": ("oci.limits", "LimitsClient", "limits"),
    "clusters": ("oci.container_engine", "ContainerEngineClient", "containerengine"),
}

# https://docs.oracle.com/iaas/Content/API/References/apierrors.htm
ERRORS: dict[tuple[int, str], type[GridcloudError]] = {
    (400, "LimitExceeded"): QuotaExceeded,
    (400, "QuotaExceeded"): QuotaExceeded,
    (400, "InsufficientServicePermissions"): Forbidden,
    (401, "NotAuthenticated"): NotAuthenticated,
    (404, "NotAuthorizedOrNotFound"): NotFound,
    (500, "OutOfHostCapacity"): NoCapacity,
}
STATUSES: dict[int, type[GridcloudError]] = {
    400: InvalidRequest,
    401: NotAuthenticated,
    402: QuotaExceeded,
    403: Forbidden,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    412: Conflict,
    429: Throttled,
    504: TimedOut,
}
REMEDIES: dict[type[GridcloudError], str] = {
    NotAuthenticated: "Check the user, the fingerprint, the key file and the region in Oracle's configuration "
    "file, and that the key is still listed at the user; see docs/guide/oracle.md.",
    NotFound: "Oracle says the same of what is not there and of what one may not see: check the name and the "
    "policy; see docs/guide/oracle.md.",
    QuotaExceeded: "Ask for a higher limit in Oracle's console: Governance, Limits.",
    Forbidden: "Check the policy; see docs/guide/oracle.md.",
}


class AccountSettings(ProviderSettings):
    """Whose account it is, and which part of it."""

    place: ClassVar[tuple[str, ...]] = (
        "compartment",
        "config_file",
        "profile",
        "region",
        "endpoint",
    )

    compartment: str = Field(
        min_length=1, description="compartment that holds the machines: its OCID or its name"
    )
    config_file: Path = Field(
        default=Path("~/.oci/config"),
        description="Oracle's own configuration file; the key stays where it says",
    )
    profile: str = Field(default="DEFAULT", min_length=1, description="section of that file")
    principal: Literal["user", "instance"] = Field(
        default="user",
        description="who asks: a user of the configuration file, or the machine that gridcloud itself runs on",
    )
    region: str = Field(
        default="", description="region, e.g. eu-frankfurt-1; empty: the configuration file's"
    )
    endpoint: str = Field(
        default="",
        description="address of the API instead of the region's own, for private regions; {service} stands for "
        "iaas, identity, limits or containerengine",
    )


class Wire:
    """The clients of one provider. Made at first use; nothing is kept but connections."""

    def __init__(self, settings: AccountSettings, provider: str) -> None:
        self._settings = settings
        self._provider = provider
        self._clients: dict[str, Any] = {}
        self._config: dict[str, Any] | None = None
        self._signer: Any = None
        self._making = threading.Lock()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def tenancy(self) -> str:
        """Return the OCID of the tenancy, the compartment above all others. Raises InvalidSettings."""
        config = await asyncio.to_thread(self._open)
        return str(config.get("tenancy") or getattr(self._signer, "tenancy_id", ""))

    async def region(self) -> str:
        """Return the name of the region. Raises InvalidSettings."""
        return str((await asyncio.to_thread(self._open)).get("region", ""))

    async def call(self, service: str, operation: str, *positional: Any, **named: Any) -> Any:
        """Return the answer's data. Raises what `translate` says."""
        answer = await self._ask(service, operation, *positional, **named)
        return answer.data

    async def begin(self, service: str, operation: str, *positional: Any, **named: Any) -> str:
        """Return the id of the work request that an operation began; empty where it begins none."""
        answer = await self._ask(service, operation, *positional, **named)
        return str(answer.headers.get("opc-work-request-id") or "")

    async def see_gone(self, error: GridcloudError, service: str, operation: str, id_: str) -> None:
        """See that what Oracle would not remove is gone: it says the same where one may not. Raises Transient where
        it is still there."""
        try:
            thing = await self.call(service, operation, id_)
        except NotFound:
            return
        if thing.lifecycle_state not in ENDED:
            raise Transient(f"{id_} is still there: {error.message}", remedy=error.remedy) from error

    async def pages(self, service: str, operation: str, *positional: Any, **named: Any) -> list[Any]:
        """Return the items of all pages of a listing."""
        found: list[Any] = []
        page: dict[str, str] = {}
        while True:
            answer = await self._ask(service, operation, *positional, **named, **page)
            found += answer.data
            if not answer.next_page:
                return found
            page = {"page": answer.next_page}

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        self._forget()

    async def _ask(self, service: str, operation: str, *positional: Any, **named: Any) -> Any:
        def ask() -> Any:
            try:
                return getattr(self._client(service), operation)(*positional, **named)
            except GridcloudError:
                raise
            except Exception as error:  # the SDK's own errors have no common root
                ours = translate(error, f"{self._provider}: {operation.replace('_', ' ')}")
                if isinstance(ours, NotAuthenticated):
                    self._forget()  # whoever asks next reads the configuration again: it may have been put right
                raise ours from error

        async with self._turns:
            return await asyncio.to_thread(ask)

    def _forget(self) -> None:
        with self._making:
            clients, self._clients = self._clients, {}
            self._config = self._signer = None
        for client in clients.values():
            client.base_client.session.close()

    def _open(self) -> dict[str, Any]:
        with self._making:
            if self._config is None:
                self._config = self._read()
            return self._config

    def _read(self) -> dict[str, Any]:
        import oci

        settings = self._settings
        region = {"region": settings.region} if settings.region else {}
        try:
            if settings.principal == "instance":
                self._signer = oci.auth.signers.InstancePrincipalsSecurityTokenSigner()
                return {"region": self._signer.region, **region}
            config: dict[str, Any] = oci.config.from_file(
                str(settings.config_file.expanduser()), settings.profile
            )
            if path := config.get("security_token_file"):
                key = oci.signer.load_private_key_from_file(config["key_file"], config.get("pass_phrase"))
                with open(os.path.expanduser(path), encoding="utf-8") as file:
                    self._signer = oci.auth.signers.SecurityTokenSigner(file.read().strip(), key)
            elif "authentication_type" not in config:
                # One for all clients: reading an RSA key checks it, which takes longer than a call.
                self._signer = oci.signer.Signer.from_config(config)
            return {**config, **region}
        except Exception as error:
            raise InvalidSettings(
                f"{self._provider}: Oracle's configuration cannot be used: {_words(error)}.",
                remedy=f"Check {settings.config_file}, section {settings.profile}; see docs/guide/oracle.md.",
            ) from error

    def _client(self, service: str) -> Any:
        config = self._open()
        with self._making:
            if service not in self._clients:
                self._clients[service] = self._make(service, config)
            return self._clients[service]

    def _make(self, service: str, config: dict[str, Any]) -> Any:
        import oci

        package, name, host = CLIENTS[service]
        more: dict[str, Any] = {"signer": self._signer} if self._signer is not None else {}
        if self._settings.endpoint:
            more["service_endpoint"] = self._settings.endpoint.replace("{service}", host).rstrip("/")
        make: Callable[..., Any] = getattr(importlib.import_module(package), name)
        try:
            client = make(
                config,
                timeout=SECONDS,
                retry_strategy=oci.retry.NoneRetryStrategy(),
                circuit_breaker_strategy=oci.circuit_breaker.NoCircuitBreakerStrategy(),
                **more,
            )
        except Exception as error:
            raise InvalidSettings(
                f"{self._provider}: Oracle's configuration cannot be used: {_words(error)}.",
                remedy=f"Check {self._settings.config_file}, section {self._settings.profile}.",
            ) from error
        client.base_client.session.hooks["response"].append(_check_answer)
        return client


class _BrokenAnswer(Exception):
    """An answer that is cut off."""


def _check_answer(response: Any, *_: Any, **__: Any) -> None:
    """Refuse half an answer. The SDK takes one for text, and text for a list of empty records: all machines gone."""
    if not 200 <= response.status_code < 300 or "json" not in response.headers.get("content-type", ""):
        return
    content = response.content
    stated = response.headers.get("content-length")
    if not content and response.request.method != "GET":
        return
    try:
        if (
            stated is not None
            and int(stated) != len(content)
            and not response.headers.get("content-encoding")
        ):
            raise ValueError("the answer is shorter than it says")
        json.loads(content)
    except ValueError as error:
        response.close()
        raise _BrokenAnswer(str(error)) from error


def translate(error: Exception, what: str) -> GridcloudError:
    """Return what an error of the SDK means to us. ``what`` names the provider and the call."""
    import oci
    from oci._vendor import requests

    if isinstance(error, oci.exceptions.ServiceError):
        return _refusal(error, what)
    if isinstance(error, (requests.exceptions.Timeout, oci.exceptions.ConnectTimeout)):
        return TimedOut(f"{what}: Oracle did not answer in time.", remedy="Try again.")
    if _caused_by(error, requests.exceptions.Timeout):
        return TimedOut(f"{what}: Oracle did not answer in time.", remedy="Try again.")
    if isinstance(error, (requests.exceptions.RequestException, oci.exceptions.RequestException, OSError)):
        return Unreachable(f"{what}: Oracle cannot be reached: {_words(error)}.", remedy="Check the network.")
    if isinstance(error, _BrokenAnswer):
        return Transient(f"{what}: the answer was cut off ({error}).", remedy="Try again.")
    if isinstance(error, oci.exceptions.ClientError):
        return InvalidSettings(f"{what}: {_words(error)}.", remedy="See docs/guide/oracle.md.")
    if isinstance(error, (TypeError, ValueError)):
        return InvalidRequest(f"{what}: {_words(error)}.")
    return Transient(f"{what}: {_words(error)}.", remedy="Try again.")


async def find_compartment(wire: Wire, wanted: str, provider: str) -> str:
    """Return the OCID of a compartment that is named so or so. Raises InvalidSettings when it is not there, or not
    the only one."""
    if wanted.startswith(("ocid1.compartment.", "ocid1.tenancy.")):
        return wanted
    found = await wire.pages(
        "identity",
        "list_compartments",
        await wire.tenancy(),
        name=wanted,
        compartment_id_in_subtree=True,
        access_level="ACCESSIBLE",
    )
    ids = [one.id for one in found if one.lifecycle_state in (None, "ACTIVE")]
    if len(ids) == 1:
        return str(ids[0])
    what = f"there are {len(ids)} compartments" if ids else "there is no compartment"
    raise InvalidSettings(
        f"{provider}: {what} named {wanted!r} that this user may see.",
        remedy="Set 'compartment' to its OCID."
        if ids
        else "Check its name and the policy; see docs/guide/oracle.md.",
    )


async def gather(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the results of all; when one fails, end the others first, so that nothing goes on behind its back."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def code_of(error: GridcloudError) -> str:
    """Return Oracle's own code of a translated error."""
    return str(error.details.get("code", ""))


def is_ours(thing: Any, tags: Mapping[str, str]) -> bool:
    """Return whether something carries all these tags."""
    carried = thing.freeform_tags or {}
    return all(carried.get(key) == value for key, value in tags.items())


async def make_once(wire: Wire, service: str, operation: str, details: Any, *words: str) -> Any:
    """Make something that two who ask for the same get once, though one like it was removed within the day.

    Oracle remembers a retry token for 24 hours, and refuses it once what it made is gone: then the next in a row of
    tokens is taken, the same row for everybody who asks for the same. Raises as the call does.
    """
    for token in _tokens(operation, details, words):
        try:
            made = await wire.call(service, operation, details, opc_retry_token=token)
        except Conflict as error:
            if code_of(error) != "InvalidatedRetryToken":
                raise
            continue
        if made.lifecycle_state not in ENDED:
            return made
    raise _too_often(operation)


async def begin_once(wire: Wire, service: str, operation: str, details: Any, *words: str) -> str:
    """Do as `make_once` where the answer is a work request; return its id."""
    for token in _tokens(operation, details, words):
        try:
            return await wire.begin(service, operation, details, opc_retry_token=token)
        except Conflict as error:
            if code_of(error) != "InvalidatedRetryToken":
                raise
    raise _too_often(operation)


def _tokens(operation: str, details: Any, words: Sequence[str]) -> Iterator[str]:
    for attempt in range(TRIES):
        text = "\n".join((operation, *words, str(details), str(attempt)))
        yield hashlib.sha256(text.encode()).hexdigest()


def _too_often(operation: str) -> Transient:
    return Transient(
        f"{operation}: it was made and removed {TRIES} times within a day.", remedy="Try tomorrow."
    )


def _refusal(error: Any, what: str) -> GridcloudError:
    status, code, message = error.status, str(error.code or ""), str(error.message or "").strip()
    # Oracle has no code of its own for this, only the sentence.
    if "out of host capacity" in message.lower():
        code = "OutOfHostCapacity"
    kind = ERRORS.get((status, code)) or STATUSES.get(status) or (Transient if status >= 500 else Rejected)
    if code == "OutOfHostCapacity":
        kind = NoCapacity
    remedy = REMEDIES.get(kind, "")
    if "clock skew" in message:
        remedy = "Set this computer's clock: it is more than five minutes off."
    details = {"status": status, "code": code, "request": str(error.request_id or "")}
    said = f"{message.rstrip('.')} ({code or status})"[:600]
    return kind(f"{what}: {said}.", remedy=remedy, details=details)


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    seen: list[Any] = [error]
    while seen:
        one = seen.pop()
        if isinstance(one, kind):
            return True
        if isinstance(one, BaseException):
            seen += [*one.args, one.__context__]
    return False


def _words(error: BaseException) -> str:
    """Return an error in at most 300 characters, without a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300].rstrip(".")
