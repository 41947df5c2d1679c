"""Magnum's API through openstacksdk: the wire, blocking.

The SDK's own resources for Magnum leave out what is needed here (``merge_labels``, ``status_reason``, a resize that can
be called), so that its proxy is used as what it is beneath: an authenticated HTTP client of that service.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import keystoneauth1.exceptions as keystone
import openstack.connection
import openstack.exceptions

from gridcloud.drivers.clusters.magnum_settings import MagnumSettings
from gridcloud.drivers.openstack import CREDENTIALS, read_cloud, status_of, translate_kind
from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
)

__all__ = ["Wire"]

T = TypeVar("T")

RESIZING = "1.7"
"""The version of Magnum's API from which clusters can be resized by a verb of its own."""


class Wire:
    """One project in one region. Call its other methods within `ask`, which tells errors in our words."""

    def __init__(self, settings: MagnumSettings) -> None:
        self._settings = settings
        self._connection: Any = None
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"Magnum of the cloud {self._settings.cloud!r}"

    def ask(self, call: Callable[[], T]) -> T:
        """Return what a call gives, its errors in our words."""
        try:
            return call()
        except (openstack.exceptions.SDKException, keystone.ClientException) as error:
            raise _translate(error, self.label) from error

    def close(self) -> None:
        """Let go of the connection. May be called twice."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def project(self) -> str:
        """Return the id of the project that the credentials are of."""
        return str(self._sdk.current_project_id)

    def clusters(self) -> list[dict[str, Any]]:
        """Return all clusters of the project, as they are listed."""
        return self._list("/clusters", "clusters")

    def cluster(self, uuid: str) -> dict[str, Any] | None:
        """Return all about one cluster; None where it is not there."""
        try:
            found: dict[str, Any] = self._call("GET", f"/clusters/{uuid}").json()
        except openstack.exceptions.NotFoundException:
            return None
        return found

    def templates(self) -> list[dict[str, Any]]:
        """Return the cluster templates that the project may use."""
        return self._list("/clustertemplates", "clustertemplates")

    def flavors(self) -> list[dict[str, Any]]:
        """Return the flavors of the project: id, name, vcpus, ram (MiB), disk (GiB)."""
        answer = self._sdk.compute.get("/flavors/detail")
        openstack.exceptions.raise_from_response(answer)
        found: list[dict[str, Any]] = answer.json()["flavors"]
        return found

    def create(self, body: dict[str, Any]) -> None:
        """Order a cluster."""
        self._call("POST", "/clusters", json=body)

    def resize(self, uuid: str, nodes: int) -> None:
        """Order another number of nodes."""
        # Said here, for the SDK would name the service by a word that Magnum does not take for its own.
        headers = {"OpenStack-API-Version": f"container-infra {RESIZING}"}
        path = f"/clusters/{uuid}/actions/resize"
        self._call("POST", path, json={"node_count": nodes}, headers=headers)

    def delete(self, uuid: str) -> None:
        """Order the removal of a cluster. Removing what is not there succeeds."""
        try:
            self._call("DELETE", f"/clusters/{uuid}")
        except openstack.exceptions.NotFoundException:
            return

    def authority(self, uuid: str) -> str:
        """Return the certificate (PEM) of a cluster's authority."""
        return str(self._call("GET", f"/certificates/{uuid}").json()["pem"])

    def sign(self, uuid: str, signing_request: str) -> str:
        """Have a cluster's authority sign a request (PEM); return the certificate (PEM)."""
        body = {"cluster_uuid": uuid, "csr": signing_request}
        return str(self._call("POST", "/certificates", json=body).json()["pem"])

    @property
    def _sdk(self) -> Any:
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> Any:
        settings = self._settings
        region = read_cloud(self.label, settings.cloud, settings.clouds_file, settings.region)
        return openstack.connection.Connection(config=region)

    def _list(self, path: str, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        place: str | None = path
        while place:
            page = self._call("GET", place).json()
            found += page[key]
            following = urlsplit(str(page.get("next") or ""))
            place = f"{path}?{following.query}" if following.query else None
        return found

    def _call(self, verb: str, path: str, **more: Any) -> Any:
        answer = self._sdk.container_infrastructure_management.request(path, verb, **more)
        openstack.exceptions.raise_from_response(answer)
        return answer


def _translate(error: Exception, label: str) -> GridcloudError:
    said = _said(error)
    if found := translate_kind(error, label, said):
        return found
    status = status_of(error) or 0
    for number, pattern, ours, remedy in _STATUSES:
        if number in (status, status // 100) and re.search(pattern, said, re.IGNORECASE):
            return ours(f"{label}: {said}", remedy=remedy)
    return Transient(f"{label}: {said}")


def _said(error: Exception) -> str:
    told = getattr(error, "details", None) or getattr(error, "message", None) or error
    try:  # Magnum says what is wrong in a form that the SDK does not read
        first = error.response.json()["errors"][0]  # type: ignore[attr-defined]
        told = first.get("detail") or first["title"]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        pass
    return " ".join(str(told).split())[:500]


_QUOTA = "Stop a cluster, ask for fewer nodes, or ask the cloud's operators for a larger quota."

_STATUSES: tuple[tuple[int, str, type[GridcloudError], str], ...] = (
    (401, "", InvalidSettings, CREDENTIALS),
    (403, "quota|maximum", QuotaExceeded, _QUOTA),
    (403, "", Forbidden, "Ask the cloud's operators for a role that may make clusters."),
    (404, "", NotFound, ""),
    (406, "", InvalidSettings, "Its Magnum is too old to resize clusters (Stein, 2019, is needed)."),
    (409, "", Transient, "Try again."),
    (413, "", QuotaExceeded, _QUOTA),
    (429, "", Throttled, "It will be tried again, more slowly."),
    (4, "quota|limit", QuotaExceeded, _QUOTA),
    (4, "", InvalidRequest, "Look at the entry, and at what was asked for."),
    (5, "", Transient, "Try again later."),
)
"""HTTP status (or its first digit), what the answer says, ours, what to do. The first that fits is taken."""
