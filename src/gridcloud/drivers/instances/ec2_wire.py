"""Calls of Amazon's API, blocking, with its errors in our words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
    Unreachable,
)

__all__ = ["Wire", "code_of"]

FAULTS = (BotoCoreError, ClientError, ResponseParserError)
"""The roots of what the library raises."""

CONNECT, READ = 5, 25
"""Seconds that a connection, and an answer, may take."""
TRIES = 3
"""How often Amazon's library asks before it gives up, pausing a second or two between."""

CREDENTIALS = "Renew the credentials where Amazon's tools keep them: aws configure, or aws sso login."
RIGHTS = "Give the account the rights that the guide to Amazon EC2 lists."
SETTINGS = "Look at the provider's settings; gridcloud provider discover shows what there is."

_CODES: dict[type[GridcloudError], tuple[tuple[str, ...], str]] = {
    NoCapacity: (
        (
            "InsufficientInstanceCapacity",
            "InsufficientHostCapacity",
            "InsufficientReservedInstanceCapacity",
            "InsufficientCapacity",
            "UnfulfillableCapacity",
            "SpotMaxPriceTooLow",
            "Unsupported",
        ),
        "Another zone or shape may have room.",
    ),
    QuotaExceeded: (
        (
            "InstanceLimitExceeded",
            "VcpuLimitExceeded",
            "MaxSpotInstanceCountExceeded",
            "VolumeLimitExceeded",
            "MaxIOPSLimitExceeded",
            "AddressLimitExceeded",
            "SecurityGroupLimitExceeded",
            "RulesPerSecurityGroupLimitExceeded",
            "SecurityGroupsPerInstanceLimitExceeded",
            "InsufficientFreeAddressesInSubnet",
            "ResourceLimitExceeded",
        ),
        "End something, or ask Amazon for a larger quota (Service Quotas).",
    ),
    Throttled: (
        (
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
            "EC2ThrottledException",
            "RequestThrottled",
            "SlowDown",
        ),
        "It is tried again.",
    ),
    InvalidSettings: (
        (
            "InvalidSubnetID.NotFound",
            "InvalidSubnet",
            "InvalidVpcID.NotFound",
            "InvalidGroup.NotFound",
            "InvalidGroupId.Malformed",
            "InvalidKeyPair.NotFound",
            "InvalidIamInstanceProfileArn",
            "VPCIdNotSpecified",
        ),
        SETTINGS,
    ),
    InvalidRequest: (
        (
            "InvalidAMIID.NotFound",
            "InvalidAMIID.Malformed",
            "InvalidAMIID.Unavailable",
            "InvalidParameterValue",
            "InvalidParameterCombination",
            "InvalidParameter",
            "InvalidBlockDeviceMapping",
            "InvalidInstanceType",
            "MissingParameter",
        ),
        "Ask for another image or shape.",
    ),
    NotFound: (
        (
            "InvalidInstanceID.NotFound",
            "InvalidInstanceID.Malformed",
            "InvalidVolume.NotFound",
            "InvalidNetworkInterfaceID.NotFound",
            "InvalidSpotInstanceRequestID.NotFound",
        ),
        "",
    ),
    Conflict: (("DependencyViolation", "InvalidGroup.InUse", "InvalidGroup.Duplicate", "VolumeInUse"), ""),
}
_REFUSED = {
    "AuthFailure": CREDENTIALS,
    "ExpiredToken": CREDENTIALS,
    "ExpiredTokenException": CREDENTIALS,
    "RequestExpired": "Set this computer's clock right, or renew the credentials.",
    "InvalidClientTokenId": CREDENTIALS,
    "UnrecognizedClientException": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "MissingAuthenticationToken": CREDENTIALS,
    "UnauthorizedOperation": RIGHTS,
    "AccessDenied": RIGHTS,
    "AccessDeniedException": RIGHTS,
    "OptInRequired": "Subscribe the account to the service or the region first.",
    "PendingVerification": "Amazon is still checking the account; it says by mail when it has done so.",
    "Blocked": "Amazon has blocked the account; ask its support.",
}
_MEANING = {code: (kind, remedy) for kind, (codes, remedy) in _CODES.items() for code in codes} | {
    code: (InvalidSettings, remedy) for code, remedy in _REFUSED.items()
}


def code_of(error: BaseException | None) -> str:
    """Return Amazon's own code of the error that one of ours was made from; empty where it has none."""
    cause = error.__cause__ if isinstance(error, GridcloudError) else error
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


class Wire:
    """One account in one region. Methods may be called from several threads; each raises what `translate` gives."""

    def __init__(self, settings: EC2Settings, provider: str) -> None:
        self._settings = settings
        self._provider = provider
        self._session: boto3.Session | None = None
        self._account: str | None = None
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def call(self, operation: str, service: str = "ec2", **words: Any) -> dict[str, Any]:
        """Return the answer to one call, named as boto3's method."""
        try:
            answer: dict[str, Any] = getattr(self._client(service), operation)(**words)
            return self._checked(service, answer)
        except FAULTS as error:
            raise self.translate(error) from error

    def pages(self, operation: str, key: str, service: str = "ec2", **words: Any) -> Iterator[dict[str, Any]]:
        """Yield the entries below ``key`` of all pages of a listing."""
        try:
            for page in self._client(service).get_paginator(operation).paginate(**words):
                yield from self._checked(service, page).get(key, ())
        except FAULTS as error:
            raise self.translate(error) from error

    def account(self) -> str:
        """Return the number of the account that our credentials are of; empty where a cloud that only speaks EC2's API
        does not tell. Amazon tells everybody, whatever rights they have; it is asked once for each set of credentials.
        """
        known = self._account
        if known is not None:
            return known
        try:
            known = str(self.call("get_caller_identity", "sts").get("Account") or "")
        except GridcloudError:
            if not self._settings.endpoint:
                raise
            known = ""
        with self._lock:
            self._account = known if self._session is not None else None
        return known

    def translate(self, error: Exception) -> GridcloudError:
        """Return one of our errors for one of Amazon's or its library's."""
        name = self._provider
        if isinstance(error, ClientError):
            return self._translate_answer(error)
        if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
            return InvalidSettings(
                f"{name}: there are no credentials for Amazon: {error}.", remedy=CREDENTIALS
            )
        if isinstance(error, SSOError | UnauthorizedSSOTokenError):
            return InvalidSettings(f"{name}: the login at Amazon is over: {error}.", remedy=CREDENTIALS)
        if isinstance(error, ProfileNotFound | NoRegionError):
            return InvalidSettings(f"{name}: {error}.", remedy="Set 'profile' and 'region' of the provider.")
        if isinstance(error, EndpointConnectionError):
            remedy = (
                f"Is the network up, and is {self._settings.region} a region? See 'region' of the provider."
            )
            if self._settings.endpoint:
                remedy = "Does a server answer there? See 'endpoint' of the provider."
            return Unreachable(f"{name}: {error}", remedy=remedy)
        if isinstance(error, NoConnection | HTTPClientError):
            return Unreachable(f"{name}: Amazon does not answer: {error}")
        if isinstance(error, ResponseParserError):
            return Transient(f"{name}: Amazon's answer was cut or is none: {str(error)[:200]}")
        return InvalidSettings(f"{name}: {error}.", remedy=SETTINGS)

    def close(self) -> None:
        """Close the connections. May be called twice."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def forget_credentials(self) -> None:
        """Have whoever asks next read them anew from where Amazon's tools keep them: they may be right by then."""
        with self._lock:
            self._session = self._account = None
        self.close()

    def _checked(self, service: str, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer that Amazon gave: any page that happens to be XML reads as an empty listing, such as that
        of a network's login, and would tell us that all machines are gone."""
        if service == "ec2" and not answer.get("ResponseMetadata", {}).get("RequestId"):
            raise Transient(f"{self._provider}: the answer is not Amazon's: it has no request id.")
        return answer

    def _translate_answer(self, error: ClientError) -> GridcloudError:
        said = error.response.get("Error", {})
        code, text = str(said.get("Code", "")), str(said.get("Message", error))[:500]
        if "<html" in text.lower():  # a page for people, as servers in between have
            text = "a page in place of an answer"
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        message = f"{self._provider}: {text} ({code})"
        if code in _MEANING:
            kind, remedy = _MEANING[code]
            if remedy == CREDENTIALS:
                self.forget_credentials()
            return kind(message, remedy=remedy)
        if status == 429:
            return Throttled(message)
        if status >= 500 or not code:
            return Transient(message)
        return InvalidRequest(message)

    def _client(self, service: str) -> Any:
        with self._lock:
            client = self._clients.get(service)
            if client is None:
                client = self._clients[service] = self._make(service)
            return client

    def _make(self, service: str) -> Any:
        settings = self._settings
        if self._session is None:
            # A session of our own: boto3's shared one is not made for several threads.
            self._session = boto3.Session(profile_name=settings.profile or None, region_name=settings.region)
        config = Config(
            connect_timeout=CONNECT,
            read_timeout=READ,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            max_pool_connections=32,
            user_agent_extra="gridcloud",
        )
        # Prices of all regions are told at a few places only.
        region = "us-east-1" if service == "pricing" and not settings.endpoint else settings.region
        return self._session.client(
            service, region_name=region, endpoint_url=settings.endpoint or None, config=config
        )
