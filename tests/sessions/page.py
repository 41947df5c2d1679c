"""A program for sessions: serves pages on a port or a socket, and fetches one from where `BACK` leads to."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import sys
import urllib.request

__all__ = ["Page", "SocketServer", "server"]


class Page(http.server.BaseHTTPRequestHandler):
    """`/` says who is asked, `/back` fetches from there, `/environment` shows what the program was given."""

    def do_GET(self) -> None:
        """Answer."""
        answer = b"here"
        if self.path == "/back":
            with urllib.request.urlopen(f"http://{os.environ['BACK']}/", timeout=10) as page:
                answer = page.read()
        elif self.path == "/environment":
            answer = json.dumps(dict(os.environ)).encode()
        elif self.path == "/pid":
            answer = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self) -> str:
        """Who asks has no address on a socket."""
        return "somebody"


class SocketServer(socketserver.ThreadingUnixStreamServer):
    """The same on a socket."""

    daemon_threads = True


server: socketserver.BaseServer
if sys.argv[1:2] == ["--socket"]:
    server = SocketServer(sys.argv[2], Page)
else:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page)
server.serve_forever()
