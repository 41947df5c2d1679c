"""Oracle's cloud on a loopback port: signatures, words, states and refusals as Oracle has them.

There is no emulator of this cloud, so this is our own: every request's RSA signature, date, body hash and key is
verified (https://docs.oracle.com/iaas/Content/API/Concepts/signingrequests.htm), and every body is held to the models
of Oracle's SDK, ours as well as the client's. It knows compute, network, identity, limits and clusters.

    with Oracle() as cloud:
        config = cloud.write_config(folder)      # what lies in ~/.oci/config: a user with a key
        ComputeClient(oci.config.from_file(str(config)), service_endpoint=cloud.url)
        cloud.tenancy.limits["standard-e4-core-count"] = 8
        cloud.tenancy.fail("POST", "/instances$", status=429, code="TooManyRequests")
"""

from __future__ import annotations

import base64
import email.utils
import functools
import hashlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.labs import oracle_account, oracle_clusters, oracle_compute, oracle_network
from tests.labs.oracle_tenancy import (
    Call,
    Fault,
    Refusal,
    Route,
    Tenancy,
    User,
    check_answer,
    not_found,
    read_body,
)

__all__ = ["Oracle"]

SKEW = 300
"""Seconds that a client's clock may be off."""
ROUTES = (*oracle_account.ROUTES, *oracle_compute.ROUTES, *oracle_network.ROUTES, *oracle_clusters.ROUTES)
SIGNED = ("date", "(request-target)", "host")
SIGNED_BODY = ("content-length", "content-type", "x-content-sha256")


class Oracle:
    """A region of Oracle's cloud with one customer. A context manager; `start` and `stop` do the same by hand."""

    def __init__(self, **tenancy: Any) -> None:
        self.tenancy = Tenancy(**tenancy)
        self.offset = 0.0
        """Seconds that the server's clock is ahead."""
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="oracle")
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the server and every connection to it. May be called twice."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        assert self._server is not None, "the server runs"
        return f"http://127.0.0.1:{self._server.server_port}"

    def write_config(
        self,
        folder: Path,
        compartments: Sequence[str] | None = None,
        forbidden: Sequence[str] = (),
        known: bool = True,
    ) -> Path:
        """Make a user with a key, and return the configuration file that says so.

        `compartments`: what this user may use. Without `known` the cloud was never given the public key.
        """
        key = _key() if known else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        # The fingerprint is Oracle's own: MD5 of the public key, which names the key and guards nothing.
        print_ = hashlib.md5(public, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(print_[at : at + 2] for at in range(0, 32, 2))
        user = self.tenancy.new_id("user")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"oci-{secrets.token_hex(4)}"
        key_file = folder / f"{name}.pem"
        key_file.touch(0o600)
        key_file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        if known:
            allowed = None if compartments is None else frozenset(compartments)
            self.tenancy.users[f"{self.tenancy.id}/{user}/{fingerprint}"] = User(
                key.public_key(), allowed, frozenset(forbidden)
            )
        config = folder / name
        config.touch(0o600)
        config.write_text(
            f"[DEFAULT]\nuser={user}\nfingerprint={fingerprint}\ntenancy={self.tenancy.id}\n"
            f"region={self.tenancy.region}\nkey_file={key_file}\n"
        )
        return config

    def look(self) -> dict[str, str]:
        """Return the user data of each running machine by its public address, for a Ground."""
        with self.tenancy.lock:
            self.tenancy.settle()
            running = {one.id: one for one in self.tenancy.of("instance", lifecycleState="RUNNING")}
            found = {}
            for attachment in self.tenancy.of("vnicattachment", lifecycleState="ATTACHED"):
                vnic = self.tenancy.things[attachment.words["vnicId"]]
                machine = running.get(attachment.words["instanceId"])
                if machine is not None:
                    user_data = base64.b64decode(machine.words["metadata"]["user_data"]).decode()
                    found[vnic.words.get("publicIp", vnic.words["privateIp"])] = user_data
            return found

    def serve(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, answer and headers for one request. Raises Refusal."""
        user = self._verify(method, target, headers, body)
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        for route in ROUTES:
            names = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path), url.path)
            if route.method == method and names:
                parts = {key: unquote(value) for key, value in names.groupdict().items()}
                token = headers.get("opc-retry-token", "")
                call = Call(self.tenancy, user, method, url.path, query, parts, retry_token=token)
                with self.tenancy.lock:
                    self.tenancy.settle()
                    return self._work(route, call, body)
        raise Refusal(404, "NotFound", f"No operation {method} {url.path}.")

    def _work(self, route: Route, call: Call, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if route.takes is not None:
            try:
                call.body = json.loads(body)
            except ValueError as error:
                raise Refusal(400, "CannotParseRequest", "Incorrectly formatted request.") from error
            read_body(route.takes, call.body)
        if call.method == "DELETE" and "delete" in call.user.forbidden:
            raise not_found()
        known = self._repeated(call, body)
        answer = known if known is not None else route.work(call)
        if known is None and call.retry_token and isinstance(answer, dict) and "id" in answer:
            digest = hashlib.sha256(body).hexdigest()
            self.tenancy.tokens[(call.path, call.retry_token)] = (answer["id"], digest)
        if answer is None:
            return 204, None, call.headers
        if isinstance(answer, str):
            return 200, answer, {"content-type": "application/x-yaml"}
        headers = {"etag": hashlib.sha256(json.dumps(answer).encode()).hexdigest()[:16]}
        if isinstance(answer, list):
            start, most = int(call.query.get("page") or 0), int(call.query.get("limit") or self.tenancy.page)
            if len(answer) > start + most:
                headers["opc-next-page"] = str(start + most)
            answer = answer[start : start + most]
        if route.gives is not None:
            check_answer(route.gives, answer)
        return 200, json.loads(json.dumps(answer)), headers

    def _repeated(self, call: Call, body: bytes) -> Any:
        """Return what was made by an earlier request with the same retry token; None: there was none."""
        made = self.tenancy.tokens.get((call.path, call.retry_token)) if call.retry_token else None
        if made is None:
            return None
        thing = self.tenancy.things.get(made[0])
        if made[1] != hashlib.sha256(body).hexdigest():
            raise Refusal(409, "InvalidatedRetryToken", "The retry token was used with another request.")
        if thing is None or thing.state in {"TERMINATED", "TERMINATING"}:
            raise Refusal(
                409,
                "InvalidatedRetryToken",
                "The provided retry token was used in an earlier request that resulted in a system update, "
                "but a subsequent operation invalidated the token.",
            )
        return thing.words

    def _verify(self, method: str, target: str, headers: dict[str, str], body: bytes) -> User:
        wrong = Refusal(
            401,
            "NotAuthenticated",
            "The required information to complete authentication was not provided or was incorrect.",
        )
        parts = dict(re.findall(r'(\w+)="([^"]*)"', headers.get("authorization", "")))
        signed = parts.get("headers", "").split()
        writes = method in {"POST", "PUT", "PATCH"}
        if not set(SIGNED + (SIGNED_BODY if writes else ())) <= set(signed):
            raise wrong
        now = time.time() + self.offset
        asked = email.utils.parsedate_to_datetime(headers["date"])
        if abs(asked.timestamp() - now) > SKEW:
            raise Refusal(
                401,
                "NotAuthenticated",
                f"Date '{headers['date']}' is not within allowed clock skew. "
                f"Current '{email.utils.formatdate(now, usegmt=True)}', request datetime: '{asked}', "
                "allowed clock skew: 'PT5M'.",
            )
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if writes and headers.get("x-content-sha256") != digest:
            raise Refusal(401, "NotAuthenticated", "The body does not match its hash x-content-sha256.")
        user = self.tenancy.users.get(parts.get("keyId", ""))
        if user is None or parts.get("algorithm") != "rsa-sha256" or parts.get("version") != "1":
            raise wrong
        text = "\n".join(
            f"{name}: {f'{method.lower()} {target}' if name == '(request-target)' else headers.get(name, '')}"
            for name in signed
        )
        try:
            signature = base64.b64decode(parts.get("signature", ""), validate=True)
            user.key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError) as error:
            raise wrong from error
        return user

    def fault(self, method: str, target: str) -> Fault | None:
        """Return what is to go wrong with this request, once."""
        with self.tenancy.lock:
            self.tenancy.asked.append(f"{method} {target}")
            for fault in self.tenancy.faults:
                if fault.method in {method, "*"} and re.search(fault.path, target) and fault.times:
                    fault.times -= 1
                    return fault
        return None


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    """Return a key; making one takes long, and users are told apart by their ids."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, cloud: Oracle) -> None:
        self.cloud = cloud
        self.sockets: set[socket.socket] = set()
        self.ended = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hang_up(self) -> None:
        """End what is being served."""
        self.ended.set()
        for one in list(self.sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # an answer in one packet: two would wait for each other's acknowledgement
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self) -> None:
        self.server.sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.cloud.fault(self.command, self.path)
        if fault is not None and fault.silent:
            self.server.ended.wait(fault.silent)
        if fault is None or fault.done or fault.half or (fault.silent and not fault.status):
            status, answer, more = self._serve(headers, body)
        else:
            status, answer, more = fault.status, {}, {}
        if fault is not None and fault.status:
            status, answer, more = fault.status, {"code": fault.code, "message": fault.message}, {}
        elif fault is not None and not fault.half and not fault.silent:
            self.close_connection = True
            return
        kind = more.pop("content-type", "application/json")
        plain = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        text = plain if answer is not None else b""
        if fault is not None and fault.half:
            text = text[: len(text) // 2]
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.send_header("opc-request-id", headers.get("opc-request-id", secrets.token_hex(16)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _serve(self, headers: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        try:
            return self.server.cloud.serve(self.command, self.path, headers, body)
        except Refusal as refusal:
            return refusal.status, {"code": refusal.code, "message": refusal.message}, {}
        except Exception as error:  # a fault of this server: told, so that the test shows it
            return 500, {"code": "ServerAtFault", "message": repr(error)}, {}

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server has these names
