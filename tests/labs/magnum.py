"""A server on loopback that speaks Magnum's API, and as much of keystone's and nova's as leads to it.

Magnum itself needs Heat and machines that become Kubernetes; none of that is here. The server keeps the books as Magnum
does: an order is taken at once, done some time later, refused while another is under way; names are not unique; labels
are listed; a cluster has an authority that signs. It fails as it is told.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

__all__ = ["Magnum", "magnum_server"]

PASSWORD = "only-for-the-lab"
FLAVORS = (("f1", "small", 2, 4096), ("f2", "large", 8, 32768))


class Magnum:
    """What the service holds, and how it is to fail."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        """That making, changing and removing a cluster takes."""
        self.pause = 0.0
        """Seconds, at most, that an order lies there before it is taken, whether or not whoever gave it still waits."""
        self.nodes = 50
        """Of all clusters together, at most."""
        self.url = ""
        self.project = "p1"
        """That the credentials are of."""
        self.clusters: dict[str, dict[str, Any]] = {}
        self.tells_labels = True
        """Whether clusters are listed with their labels, as newer versions do."""
        self.faults: list[tuple[str, str, int]] = []
        """Verb, part of the path and status of answers that refuse, each once; 0 cuts the line after the deed."""
        self.fails: list[str] = []
        """CREATE, UPDATE or DELETE: what the next orders of these kinds come to nothing, each once."""
        self.lock = threading.Lock()
        self.token = uuid.uuid4().hex

    def clouds(self, folder: Path) -> Path:
        """Write a clouds.yaml with the cloud ``lab`` and return its path."""
        auth = {
            "auth_url": f"{self.url}/identity/v3",
            "username": "ada",
            "password": PASSWORD,
            "project_name": "lab",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        path = folder / "clouds.yaml"
        path.write_text(yaml.safe_dump({"clouds": {"lab": {"auth": auth, "region_name": "one"}}}))
        path.chmod(0o600)
        return path

    def settle(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for one in list(self.clusters.values()):
            if not one["status"].endswith("_IN_PROGRESS") or one["due"] > now:
                continue
            verb = one["status"].partition("_")[0]
            if one["doomed"]:
                one |= {
                    "status": f"{verb}_FAILED",
                    "status_reason": "Resource CREATE failed: no valid host",
                    "doomed": False,
                }
            elif verb == "DELETE":
                del self.clusters[one["uuid"]]
            else:
                one |= {
                    "status": f"{verb}_COMPLETE",
                    "status_reason": None,
                    "api_address": "https://192.0.2.9:6443",
                }
                one |= {"coe_version": "v1.31.1"}

    def begin(self, one: dict[str, Any], verb: str) -> None:
        """Take an order."""
        doomed = verb in self.fails
        if doomed:
            self.fails.remove(verb)
        one |= {"status": f"{verb}_IN_PROGRESS", "due": time.monotonic() + self.seconds, "doomed": doomed}


@contextmanager
def magnum_server(seconds: float = 0.05) -> Iterator[Magnum]:
    """Run a server on a free port."""
    magnum = Magnum(seconds)

    class Handler(_Handler):
        state = magnum

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    magnum.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield magnum
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title


class _Handler(BaseHTTPRequestHandler):
    state: Magnum
    protocol_version = "HTTP/1.0"  # a connection for each request: none is left over

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].rstrip("/")
        fault = next((one for one in self.state.faults if one[0] == self.command and one[1] in path), None)
        if fault is not None:
            self.state.faults.remove(fault)
            if fault[2]:
                return self._answer(
                    fault[2], {"errors": [{"title": "told to fail", "detail": "told to fail"}]}
                )
        if self.command != "GET" and "/clusters" in path:
            time.sleep(random.uniform(0, self.state.pause))
        try:
            with self.state.lock:
                self.state.settle()
                status, document = self._route(path, json.loads(body) if body else {})
        except _Refused as error:
            return self._answer(error.status, {"errors": [{"title": error.title, "detail": error.title}]})
        if fault is None:
            self._answer(status, document)
        return None

    def _answer(self, status: int, document: Any, **headers: str) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if path_is_token(self.path) and status == 201:
            self.send_header("X-Subject-Token", self.state.token)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        verb, parts = self.command, path.strip("/").split("/")
        if parts[0] == "identity":
            return self._identity(parts[1:], body)
        if parts in (["compute"], ["compute", "v2.1"]):
            link = [{"rel": "self", "href": f"{self.state.url}/compute/v2.1"}]
            version = {
                "id": "v2.1",
                "status": "CURRENT",
                "version": "2.90",
                "min_version": "2.1",
                "links": link,
            }
            return 200, {"version": version} if parts[1:] else {"versions": [version]}
        if parts in (["magnum"], ["magnum", "v1"]):
            link = [{"rel": "self", "href": f"{self.state.url}/magnum/v1/"}]
            version = {
                "id": "v1",
                "status": "CURRENT",
                "max_version": "1.11",
                "min_version": "1.1",
                "links": link,
            }
            return 200, version if parts[1:] else {"versions": [version]}
        if self.headers.get("X-Auth-Token") != self.state.token:
            raise _Refused(401, "Authentication required")
        if parts[:1] == ["compute"]:
            flavors = [{"id": i, "name": n, "vcpus": c, "ram": m, "disk": 20} for i, n, c, m in FLAVORS]
            return 200, {"flavors": flavors}
        tail = parts[2:]
        routes: dict[tuple[str, str, int], Callable[[], tuple[int, Any]]] = {
            ("GET", "clustertemplates", 1): lambda: (200, {"clustertemplates": TEMPLATES}),
            ("GET", "clusters", 1): self._list,
            ("POST", "clusters", 1): lambda: self._create(body),
            ("GET", "clusters", 2): lambda: (200, _told(self._one(tail[1]))),
            ("DELETE", "clusters", 2): lambda: self._delete(tail[1]),
            ("POST", "clusters", 4): lambda: self._resize(tail[1], body),
            ("GET", "certificates", 2): lambda: (
                200,
                {"cluster_uuid": tail[1], "pem": self._one(tail[1])["ca"]},
            ),
            ("POST", "certificates", 1): lambda: self._sign(body),
        }
        route = routes.get((verb, tail[0] if tail else "", len(tail)))
        if route is None:
            raise _Refused(404, f"no such path {path}")
        return route()

    def _identity(self, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        base = f"{self.state.url}/identity/v3/"
        if parts in ([], ["v3"]):
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": base}]}
            return 200, {"version": version} if parts else {"versions": {"values": [version]}}
        given = body.get("auth", {}).get("identity", {}).get("password", {}).get("user", {})
        if given.get("password") != PASSWORD:
            raise _Refused(401, "The request you have made requires authentication.")
        ends = datetime.now(UTC) + timedelta(hours=1)
        catalog = [
            _service("container-infra", f"{self.state.url}/magnum/v1"),
            _service("compute", f"{self.state.url}/compute/v2.1"),
            _service("identity", base),
        ]
        project = {"id": self.state.project, "name": "lab", "domain": {"id": "default", "name": "Default"}}
        user = {"id": "u1", "name": "ada", "domain": {"id": "default", "name": "Default"}}
        token = {"methods": ["password"], "user": user, "project": project, "catalog": catalog, "roles": []}
        return 201, {"token": {**token, "expires_at": f"{ends:%Y-%m-%dT%H:%M:%S}.000000Z", "issued_at": ""}}

    def _list(self) -> tuple[int, Any]:
        keys = ["uuid", "name", "status", "node_count", "created_at", "cluster_template_id"]
        keys += ["labels"] if self.state.tells_labels else []
        ours = [one for one in self.state.clusters.values() if one["project_id"] == self.state.project]
        return 200, {"clusters": [{key: one[key] for key in keys} for one in ours]}

    def _one(self, key: str) -> dict[str, Any]:
        if self.state.clusters.get(key, {}).get("project_id") != self.state.project:
            raise _Refused(404, f"Cluster {key} could not be found.")
        return self.state.clusters[key]

    def _check_room(self, nodes: int, but: str = "") -> None:
        taken = sum(one["node_count"] for one in self.state.clusters.values() if one["uuid"] != but)
        if taken + nodes > self.state.nodes:
            raise _Refused(403, f"You have reached the maximum nodes per project, {self.state.nodes}.")

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["cluster_template_id"] not in [one["uuid"] for one in TEMPLATES]:
            raise _Refused(404, "ClusterTemplate could not be found.")
        self._check_room(body["node_count"])
        labels = body.get("labels", {})
        if body.get("merge_labels"):
            labels = {"kube_tag": "v1.31.1", **labels}
        authority = _Authority()
        one = {
            "uuid": str(uuid.uuid4()),
            "node_count": 1,
            "status_reason": None,
            "api_address": None,
            "flavor_id": "f1",
            "created_at": datetime.now(UTC).isoformat(),
            **body,
            "labels": labels,
            "project_id": self.state.project,
            "coe_version": None,
            "authority": authority,
            "ca": authority.pem,
        }
        self.state.begin(one, "CREATE")
        self.state.clusters[one["uuid"]] = one
        return 202, {"uuid": one["uuid"]}

    def _delete(self, key: str) -> tuple[int, Any]:
        self.state.begin(self._one(key), "DELETE")
        return 204, None

    def _resize(self, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.headers.get("OpenStack-API-Version") != "container-infra 1.7":
            raise _Refused(406, "resize needs API version 1.7")
        one = self._one(key)
        if one["status"].endswith("_IN_PROGRESS"):
            raise _Refused(409, "Updating a cluster when it is in progress is not supported")
        self._check_room(body["node_count"], key)
        self.state.begin(one, "UPDATE")
        if not one["doomed"]:
            one["node_count"] = body["node_count"]
        return 202, {"uuid": key}

    def _sign(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 201, {"pem": self._one(body["cluster_uuid"])["authority"].sign(body["csr"])}


class _Authority:
    """A cluster's own authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cluster")])
        self.pem = self._certificate(self._name, self._key.public_key())

    def sign(self, request: str) -> str:
        read = x509.load_pem_x509_csr(request.encode())
        return self._certificate(read.subject, read.public_key())

    def _certificate(self, subject: x509.Name, key: Any) -> str:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now)
        signed = made.not_valid_after(now + timedelta(days=1)).sign(self._key, hashes.SHA256())
        return signed.public_bytes(Encoding.PEM).decode()


TEMPLATES = [
    {"uuid": "t-131", "name": "kubernetes-1.31", "coe": "kubernetes", "flavor_id": "f1"},
    {"uuid": "t-130", "name": "kubernetes-1.30", "coe": "kubernetes", "flavor_id": "f1"},
    {"uuid": "t-swarm", "name": "swarm", "coe": "swarm", "flavor_id": "f1"},
]


def path_is_token(path: str) -> bool:
    """Return whether a path is that of keystone's tokens."""
    return path.rstrip("/").endswith("/auth/tokens")


def _told(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("authority", "ca", "due", "doomed")}


def _service(kind: str, url: str) -> dict[str, Any]:
    endpoint = {"id": kind, "interface": "public", "region": "one", "region_id": "one", "url": url}
    return {"type": kind, "name": kind, "id": kind, "endpoints": [endpoint]}
