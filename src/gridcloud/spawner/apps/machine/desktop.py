"""A desktop that a browser shows: an X server that speaks VNC on a Unix socket, a window manager, and noVNC's files.

``python desktop.py SOCKET STREAM`` answers HTTP on ``SOCKET`` and VNC on ``STREAM``; the bytes of the latter reach the
page by websocket through the session's server. Neither VNC nor X listens on a port, and X asks for a cookie that only
the owner can read. It ends when the window manager ends.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import select
import shutil
import struct
import subprocess
import sys
import threading
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from serving import Pages, PagesServer  # type: ignore[import-not-found, unused-ignore]
from ties import be_told_of_parents_end  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Desktop", "graphics", "main", "missing", "novnc", "window_manager", "write_cookie"]

HERE = os.path.dirname(os.path.abspath(__file__))

SERVERS = ("Xtigervnc", "Xvnc")
MANAGERS = (
    "startxfce4",
    "startlxqt",
    "mate-session",
    "startplasma-x11",
    "startlxde",
    "icewm-session",
    "openbox-session",
    "fluxbox",
    "twm",
)
NOVNC = ("/usr/share/novnc", "/usr/share/noVNC", "/usr/share/webapps/novnc", "/opt/noVNC", "/opt/novnc")

GPUS = ("/dev/nvidia[0-9]*", "/dev/dri/renderD*")
"""Devices of which one is to be ours to use, so that a GPU draws."""

SIZE = "1280x800"
"""Until the page says how large it is."""


def window_manager() -> list[str]:
    """Return the command of what draws the desktop; empty where there is none.

    GRIDCLOUD_DESKTOP names one; ~/.vnc/xstartup is what other remote desktops run.
    """
    own = os.environ.get("GRIDCLOUD_DESKTOP", "")
    if own:
        return ["/bin/sh", "-c", f"exec {own}"]
    script = os.path.expanduser("~/.vnc/xstartup")
    if os.access(script, os.X_OK):
        return [script]
    return next(([name] for name in MANAGERS if shutil.which(name)), [])


def novnc() -> str:
    """Return the folder of noVNC's files; empty where there is none."""
    folders = [os.environ.get("GRIDCLOUD_NOVNC", ""), *NOVNC, os.path.join(sys.prefix, "share", "novnc")]
    return next((one for one in folders if one and os.path.isfile(os.path.join(one, "core", "rfb.js"))), "")


def missing() -> list[str]:
    """Return in words what is not here."""
    lacking = []
    if not any(shutil.which(name) for name in SERVERS):
        lacking.append("an X server that speaks VNC (Debian: tigervnc-standalone-server)")
    if not novnc():
        lacking.append("noVNC's files (Debian: novnc)")
    if not window_manager():
        lacking.append("a desktop or window manager (Debian: xfce4, or icewm for a small one)")
    return lacking


def graphics() -> list[str]:
    """Return the words before a command by which what it draws in OpenGL is drawn by a GPU; empty: by the CPU."""
    if shutil.which("vglrun") is None:
        return []
    nodes = [node for pattern in GPUS for node in glob.glob(pattern)]
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return []
    return ["vglrun", "-d", os.environ.get("VGL_DISPLAY", "egl"), "+wm"]


def write_cookie(path: str) -> None:
    """Write a file by which X lets its owner in, from any name of this machine."""
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
    entry = struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(field)) + field for field in fields)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(entry)


def _start_x(stream: str, cookie: str) -> tuple[subprocess.Popen[bytes], str] | None:
    """Start the X server; return it and its display, None where it has ended."""
    reading, writing = os.pipe()
    server = next(name for name in SERVERS if shutil.which(name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(stream)
    words = [server, "-displayfd", str(writing), "-auth", cookie, "-nolisten", "tcp", "-geometry", SIZE]
    words += ["-depth", "24", "-desktop", "gridcloud", "-rfbunixpath", stream, "-rfbunixmode", str(0o600)]
    words += ["-rfbport", "-1", "-SecurityTypes", "None", "-AlwaysShared"]
    process = subprocess.Popen(
        words,
        pass_fds=(writing,),
        stdin=subprocess.DEVNULL,
        preexec_fn=be_told_of_parents_end,  # noqa: PLW1509 - one thread only
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], 30)
        number = pipe.readline().strip().decode() if ready else ""
    if not number.isdigit():
        process.kill()
        process.wait()
        return None
    return process, f":{number}"


class Desktop(Pages):
    """noVNC's files, and our page before them."""

    def do_GET(self) -> None:  # noqa: N802 - so it is called there
        """Answer the page, or a file of noVNC's."""
        if self.path.partition("?")[0] in ("/", "/index.html"):
            with open(os.path.join(HERE, "desktop.html"), encoding="utf-8") as file:
                self.say(file.read())
        elif self.path.startswith("/used"):
            self.say("")
        else:
            super().do_GET()


def main(arguments: list[str]) -> int:
    """Show a desktop until it ends."""
    socket, stream = arguments
    if lacking := missing():
        print("It needs " + ", and ".join(lacking) + ".", file=sys.stderr)
        return 69
    cookie = f"{socket}.auth"
    write_cookie(cookie)
    try:
        started = _start_x(stream, cookie)
        if started is None:
            print("The X server has not started.", file=sys.stderr)
            return 1
        server, display = started
        gpu = graphics()
        environment: dict[str, str] = {**os.environ, "DISPLAY": display, "XAUTHORITY": cookie}
        if not gpu:
            environment.update(LIBGL_ALWAYS_SOFTWARE="1", GALLIUM_DRIVER="llvmpipe")
        bus = ["dbus-run-session", "--"] if shutil.which("dbus-run-session") else []
        words = [*bus, *gpu, *window_manager()]
        manager = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            cwd=os.path.expanduser("~"),
            preexec_fn=be_told_of_parents_end,  # noqa: PLW1509 - one thread only
        )
        _serve(socket)
        return _wait(server, manager)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(cookie)


def _serve(socket: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    server = PagesServer(socket, partial(Desktop, directory=novnc()))
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _wait(server: Any, manager: Any) -> int:
    """Return when either has ended; the other then ends, too."""
    ended = threading.Event()

    def watch(process: Any) -> None:
        process.wait()
        ended.set()

    for process in (server, manager):
        threading.Thread(target=watch, args=(process,), daemon=True).start()
    ended.wait()
    for process in (manager, server):
        with contextlib.suppress(OSError):
            process.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
