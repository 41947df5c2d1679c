"""A proxy in front of a cloud's API whose answers can be made late, wrong, cut short, or lost after the deed.

    with FaultyProxy(moto.url) as proxy:
        proxy.fail("Action=RunInstances", status=503, body=xml)        # asked nothing
        proxy.fail("Action=RunInstances", forward=True, drop=True)     # done, but the answer is lost
        proxy.fail("GET /v2.1/servers", forward=True, cut=0.5)         # half of the answer
        proxy.fail("", seconds=3, times=2)                             # slow, twice

It speaks HTTP/1.1 on loopback and passes everything else on as it is. A client is told the proxy's URL as that of the
cloud; a cloud that names its own addresses in answers (OpenStack's catalogue) has to name the proxy there.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["Answer", "Fault", "FaultyProxy"]

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "te", "upgrade"}
"""Headers that belong to one connection, or that change with the body's form."""


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


@dataclass
class Fault:
    """What becomes of requests that fit. ``left`` counts down to nothing."""

    pattern: re.Pattern[str]
    left: int
    status: int = 0
    """Answer so; 0: as the cloud does."""
    body: str = ""
    content: str = "text/xml"
    seconds: float = 0.0
    """Wait so long before anything else."""
    forward: bool = False
    """Have the cloud do it all the same."""
    drop: bool = False
    """Say nothing, and hang up."""
    cut: float = 1.0
    """Send only this part of the body, having announced all of it."""
    ask: Callable[[bytes], bytes] | None = None
    """Change what the cloud is asked."""
    rewrite: Callable[[bytes], bytes] | None = None
    """Change the cloud's answer."""
    garble: bool = False
    """Send only the part that `cut` says, announced as if it were all."""
    seen: list[str] = field(default_factory=list)
    """The requests that it met: method, path and body."""


class FaultyProxy:
    """A context manager; ``url`` is where it listens."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.rstrip("/")
        self.asked: list[str] = []
        """All requests that came: method and path, then the body."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "the proxy runs"
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, pattern: str, times: int = 1, **how: Any) -> Fault:
        """Let the next ``times`` requests fail whose method, path and body fit ``pattern`` somewhere."""
        fault = Fault(re.compile(pattern), times, **how)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Let everything through again."""
        with self._lock:
            self._faults.clear()

    def count(self, pattern: str) -> int:
        """Return how many requests came that fit."""
        return sum(bool(re.search(pattern, one)) for one in self.asked)

    def meet(self, request: str) -> Fault | None:
        """Note a request and return the fault that it is to meet."""
        with self._lock:
            self.asked.append(request)
            for fault in self._faults:
                if fault.left and fault.pattern.search(request):
                    fault.left -= 1
                    fault.seen.append(request)
                    return fault
        return None

    def answer(self, request: str, forward: Callable[[], Answer]) -> Answer:
        """Return what the cloud answers; a subclass may know more of a cloud than its stand-in does."""
        return forward()

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faults")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()
        self._server = self._thread = None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that have gone are what the proxy is for."""

    def hang_up(self) -> None:
        """End the connections that clients keep for later."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path}\n{body.decode(errors='replace')}"
        fault = self.server.proxy.meet(request)
        if fault is None:
            self._send(*self._pass_on(request, body))
            return
        time.sleep(fault.seconds)
        if fault.ask is not None:
            body = fault.ask(body)
        silent = not fault.forward and (fault.status or fault.drop)
        status, headers, answer = (0, {}, b"") if silent else self._pass_on(request, body)
        if fault.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault.status:
            status, headers, answer = fault.status, {"Content-Type": fault.content}, fault.body.encode()
        if fault.rewrite is not None:
            answer = fault.rewrite(answer)
        self._send(status, headers, answer, cut=fault.cut, garble=fault.garble)

    def _pass_on(self, request: str, body: bytes) -> Answer:
        return self.server.proxy.answer(request, lambda: self._forward(body))

    def _forward(self, body: bytes) -> Answer:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        request = urllib.request.Request(  # noqa: S310 - the upstream is ours
            self.server.proxy.upstream + self.path, data=body or None, headers=headers, method=self.command
        )
        try:
            with urllib.request.build_opener(_Plain).open(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, cut: float = 1.0, garble: bool = False
    ) -> None:
        part = body[: int(len(body) * cut)]
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(part if garble else body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)
        if len(part) < len(body) and not garble:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """The tests say what matters."""


for _verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{_verb}", _Handler._serve)


class _Plain(urllib.request.HTTPRedirectHandler):
    """Hands redirects to the client."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None
