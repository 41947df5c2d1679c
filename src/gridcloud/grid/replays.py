"""The memory of accepted messages across a restart: a line for each in a file, read again by the next start.

A line is written before the message is answered, and is there when the program is killed. It is not forced to the disk,
which would cost more than the message; so after the computer itself went down nothing is believed of the file, and the
rule of the protocol for a lost memory holds: what was issued before a minute after the start is refused.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gridcloud.clock import Clock
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.envelopes import SKEW, Envelope, ReplayCache

__all__ = ["Journal"]

TURN = 30 * 60
"""Seconds after which what is over is left out of the file."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """Keeps a `ReplayCache` in a file that nobody else may read. Its methods touch the disk, for microseconds."""

    def __init__(self, path: Path, clock: Clock, *, known: bool = True) -> None:
        """`known`: whether there should be a file, since we were a member before."""
        self._path = path
        self._known = known
        self._clock = clock
        self._boot = _boot()
        self._turned = clock.monotonic()
        self._file = -1
        self.cache = self._read()
        self._turn()

    def note(self, envelope: Envelope) -> None:
        """Write down a message that `cache` accepted, before it is answered."""
        until = envelope.expires + SKEW.seconds * 1000
        if self._file < 0 or self._clock.monotonic() - self._turned > TURN:
            self._turn()  # what it writes holds this message too
        else:
            os.write(self._file, f"{envelope.sender} {envelope.nonce} {until}\n".encode("ascii"))

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self) -> ReplayCache:
        now = milliseconds(self._clock.now())
        try:
            lines = self._path.read_text("ascii").splitlines()
        except FileNotFoundError:
            return ReplayCache.lost(now) if self._known else ReplayCache()
        except (OSError, UnicodeDecodeError):
            return ReplayCache.lost(now)
        head = lines[0].split() if lines else []
        if len(head) != 2 or not self._boot or head[0] != self._boot or not head[1].isdecimal():
            return ReplayCache.lost(now)
        until: dict[str, dict[str, int]] = {}
        for line in lines[1:]:
            with contextlib.suppress(ValueError):  # the last line of a program that was killed in it
                sender, nonce, text = line.split()
                if (end := int(text)) >= now:
                    until.setdefault(sender, {})[nonce] = end
        return ReplayCache.of({"not_before": int(head[1]), "until": until})

    def _turn(self) -> None:
        """Write the file anew, without what is over."""
        self.close()
        self._turned = self._clock.monotonic()
        self.cache.forget(milliseconds(self._clock.now()))
        state = self.cache.state()
        lines = [f"{self._boot or '-'} {state['not_before']}"]
        lines += [
            f"{sender} {nonce} {until}"
            for sender, nonces in state["until"].items()
            for nonce, until in nonces.items()
        ]
        there = self._path.with_suffix(".new")
        there.unlink(missing_ok=True)
        self._file = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        os.write(self._file, ("\n".join(lines) + "\n").encode("ascii"))
        there.rename(self._path)


def _boot() -> str:
    """Return what names this run of the computer; empty where nothing does: then each start is one after a loss."""
    try:
        return BOOT.read_text("ascii").strip()
    except OSError:
        return ""
