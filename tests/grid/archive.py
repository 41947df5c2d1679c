"""A place in the internet where sessions save their work before they end: ``python archive.py FOLDER ADDRESS PORT``."""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["serve"]

LARGEST = 64 << 20


class _Archive(BaseHTTPRequestHandler):
    folder = Path()

    def do_PUT(self) -> None:
        size = int(self.headers.get("Content-Length", LARGEST + 1))
        path = self._place()
        if path is None or size > LARGEST:
            self.send_error(400)
            return
        path.write_bytes(self.rfile.read(size))
        self.send_response(201)
        self.end_headers()

    def do_GET(self) -> None:
        path = self._place()
        if path is None or not path.exists():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        self.wfile.write(path.read_bytes())

    def _place(self) -> Path | None:
        name = self.path.removeprefix("/")
        return self.folder / name if re.fullmatch(r"[a-z0-9-]+(\.[a-z]+)?", name) else None

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(folder: Path, address: str, port: int) -> None:
    """Serve until the process ends."""
    _Archive.folder = folder
    with ThreadingHTTPServer((address, port), _Archive) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
