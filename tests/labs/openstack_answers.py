"""A keystone and a nova of a few answers on a loopback port, for what OpenStack itself cannot be made to say.

    with OpenStackAnswers() as cloud:
        cloud.write_clouds(folder / "clouds.yaml")       # the entry `answers`
        cloud.servers["s1"] = server("s1", "i-1", …)
        cloud.unlisted.add("s1")                         # a listing leaves it out; asked for by its id it is there
        cloud.broken.add("s1")                           # asked for by its id nova fails
        cloud.reappearing.add("s1")                      # once ended it is seen once more, as where it was being made
        cloud.password = "another"                       # whoever logs in with the former one is refused

Neutron has nothing here, and nova removes at once.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

__all__ = ["OpenStackAnswers", "server"]

EMPTY = {"ports": "ports", "floatingips": "floatingips", "security-groups": "security_groups"}


def server(id_: str, instance_id: str, installation: str, provider: str, **more: Any) -> dict[str, Any]:
    """Return a server as nova tells it, with our marks."""
    marks = {"installation": installation, "provider": provider, "instance": instance_id}
    return {
        "id": id_,
        "name": f"gridcloud-{instance_id}",
        "status": "ACTIVE",
        "OS-EXT-STS:task_state": None,
        "created": "2026-01-01T00:00:00Z",
        "addresses": {},
        "metadata": {f"gridcloud-{key}": value for key, value in marks.items()},
        **more,
    }


class OpenStackAnswers:
    """A context manager; ``url`` is where it listens."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] = set()
        self.broken: set[str] = set()
        self.reappearing: set[str] = set()
        self.ghosts: dict[str, list[dict[str, Any] | None]] = {}
        """What is still to be told of servers that have ended, in order."""
        self.password = "secret"
        self.project = "project"
        self.asked: list[str] = []
        """Method and path of all requests that came."""
        self._token = ""
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "it runs"
        return f"http://127.0.0.1:{self._server.server_port}"

    def write_clouds(self, path: Path, password: str = "") -> None:
        """Write a clouds.yaml with the entry ``answers``; without a password the right one."""
        auth = {
            "auth_url": f"{self.url}/v3",
            "username": "u",
            "password": password or self.password,
            "project_name": "p",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        path.write_text(yaml.safe_dump({"clouds": {"answers": {"auth": auth, "region_name": "R"}}}))

    def expire(self) -> None:
        """Let all tokens be over."""
        self._token = ""

    def answer(self, method: str, address: str, body: bytes, token: str) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and document for a request."""
        path = urlsplit(address).path.rstrip("/")
        query = parse_qs(urlsplit(address).query)
        self.asked.append(f"{method} {path}")
        if path == "/v3" and method == "GET":
            links = [{"rel": "self", "href": f"{self.url}/v3"}]
            return 200, {}, {"version": {"id": "v3.14", "status": "stable", "links": links}}
        if path == "/v3/auth/tokens":
            return self._log_in(json.loads(body))
        if not self._token or token != self._token:
            return 401, {}, {"error": {"message": "The request you have made requires authentication."}}
        if path.startswith("/network"):
            what = EMPTY.get(path.rpartition("/")[2])
            return (200, {}, {what: []}) if what else (404, {}, {})
        return self._compute(method, path.removeprefix("/compute/v2.1"), query)

    def _log_in(self, body: Any) -> tuple[int, dict[str, str], Any]:
        if body["auth"]["identity"]["password"]["user"]["password"] != self.password:
            return 401, {}, {"error": {"code": 401, "message": "The password has expired."}}
        self._token = f"token-{len(self.asked)}"
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [
                    {"id": kind, "interface": "public", "region": "R", "region_id": "R", "url": self.url + at}
                ],
            }
            for kind, at in (("compute", "/compute/v2.1"), ("network", "/network"))
        ]
        domain = {"id": "default", "name": "Default"}
        words = {
            "methods": ["password"],
            "user": {"id": "u", "name": "u", "domain": domain},
            "project": {"id": self.project, "name": "p", "domain": domain},
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2126-01-01T00:00:00.000000Z",
            "catalog": catalog,
            "roles": [],
        }
        return 201, {"X-Subject-Token": self._token}, {"token": words}

    def _compute(
        self, method: str, path: str, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, str], Any]:
        if not path:
            links = [{"rel": "self", "href": f"{self.url}/compute/v2.1"}]
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.90", "min_version": "2.1"}
            return 200, {}, {"version": {**version, "links": links}}
        if path in ("/servers", "/servers/detail"):
            name = query.get("name", [""])[0]
            shown = [one for id_, one in self.servers.items() if id_ not in self.unlisted]
            return 200, {}, {"servers": [one for one in shown if re.search(name, one["name"])]}
        id_ = path.removeprefix("/servers/")
        if id_ in self.broken:
            return 500, {}, {"computeFault": {"code": 500, "message": "Cell c2 is not responding"}}
        ghosts = self.ghosts.get(id_)
        found = ghosts.pop(0) if ghosts else self.servers.get(id_)
        if found is None:
            return 404, {}, {"itemNotFound": {"code": 404, "message": f"Instance {id_} could not be found."}}
        if method == "DELETE":
            del self.servers[id_]
            if id_ in self.reappearing:
                self.ghosts[id_] = [None, found, found]
            return 204, {}, None
        return 200, {}, {"server": found}

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="answers")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(cloud: OpenStackAnswers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("X-Auth-Token", "")
            status, headers, document = cloud.answer(self.command, self.path, body, token)
            content = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            words = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
            for name, value in words.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the tests read `asked`."""

    return Handler
