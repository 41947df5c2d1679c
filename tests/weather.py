"""Cables between networks on which packets take their time, and some are lost.

Two tun devices and a program that carries packets between them, for few kernels are built with netem. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLEAR", "Weather", "wire_through"]

ROOT = Path(__file__).parents[1]
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
LARGEST = 65536


@dataclass(frozen=True)
class Weather:
    """What happens to packets on a cable."""

    delay: float = 0.0
    """Seconds that each packet takes, each way."""
    loss: float = 0.0
    """The part of all packets that is lost, each way."""


CLEAR = Weather()


def wire_through(
    weather: Weather, stack: contextlib.ExitStack, one: int, card: str, other: int, far: str
) -> None:
    """Lay such a cable between the networks of two processes, with a card of each name; it goes with the stack."""
    words = [str(one), card, str(other), far, str(weather.delay), str(weather.loss)]
    carrier = subprocess.Popen(
        [sys.executable, "-m", "tests.weather", *words], stdout=subprocess.PIPE, cwd=ROOT
    )
    stack.callback(carrier.communicate)
    stack.callback(carrier.kill)
    assert carrier.stdout is not None
    assert carrier.stdout.readline() == b"ready\n"


def _open_card(network: int, name: str) -> int:
    """Return a tun device of that name in the network of a process. It goes when it is closed."""
    place = os.open(f"/proc/{network}/ns/net", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(place, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(place)
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(card, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    return card


def _write(card: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # not up yet, or full: lost as well
        os.write(card, packet)


async def _carry(cards: tuple[int, int], weather: Weather) -> None:
    loop, chance = asyncio.get_running_loop(), random.Random(20)

    def take(source: int, target: int) -> None:
        with contextlib.suppress(OSError):
            for _ in range(64):
                packet = os.read(source, LARGEST)
                if chance.random() >= weather.loss:
                    loop.call_later(weather.delay, _write, target, packet)

    one, other = cards
    loop.add_reader(one, take, one, other)
    loop.add_reader(other, take, other, one)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _first, _card, _second, _far, _delay, _loss = sys.argv[1:]
    _ends = _open_card(int(_first), _card), _open_card(int(_second), _far)
    asyncio.run(_carry(_ends, Weather(float(_delay), float(_loss))))
