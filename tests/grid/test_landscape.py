"""The networks in which institutions are tried are what they are called: NATs, no UDP, a proxy, weather."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.grid.landscape import ARCHIVE, CORK, Landscape, lay_networks
from tests.weather import CLEAR, Weather

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(120)]

PORT = 9000
ECHO = f"""
import socket, sys, threading
udp = socket.socket(type=socket.SOCK_DGRAM)
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for one in udp, tcp:
    one.bind((sys.argv[1], {PORT}))
tcp.listen()
def answer():
    while True:
        udp.sendto(*udp.recvfrom(2000))
threading.Thread(target=answer, daemon=True).start()
print("ready", flush=True)
while True:
    link, (_, port) = tcp.accept()
    link.sendall(str(port).encode())
    link.close()
"""
PORT_SEEN = f"""
import socket, sys
link = socket.socket()
link.settimeout(3)
link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
link.bind(("", 5000))
link.connect((sys.argv[1], {PORT}))
print(link.recv(10).decode())
"""
DATAGRAMS = f"""
import select, socket, sys, time
link, count, answered = socket.socket(type=socket.SOCK_DGRAM), int(sys.argv[2]), 0
link.connect((sys.argv[1], {PORT}))
soonest = 9.0
for number in range(5):
    begun = time.monotonic()
    link.send(b"x")
    if select.select([link], [], [], 1)[0]:
        soonest = min(soonest, time.monotonic() - begun)
        link.recv(10)
for number in range(count):
    link.send(b"x")
    time.sleep(0.001)
    while select.select([link], [], [], 0)[0]:
        answered += len(link.recv(10))
while select.select([link], [], [], 1.5)[0]:
    answered += len(link.recv(10))
print(answered, soonest)
"""
THROUGH = f"""
import socket, sys
link = socket.create_connection((sys.argv[1], 3128), 3)
link.sendall(f"CONNECT {{sys.argv[2]}}:{PORT} HTTP/1.1\\r\\n\\r\\n".encode())
said = b""
while more := link.recv(1000):
    said += more
print(said.decode().rpartition("\\n")[2])
"""


def run(network: int, program: str, *words: str) -> str:
    """Run a program in a network; return what it printed, or nothing if it failed."""
    command = ["nsenter", "--net", "--target", str(network), sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, timeout=30)
    return done.stdout.decode().strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def land(weather: Weather = CLEAR, proxied: tuple[str, ...] = ()) -> Iterator[Landscape]:
    """The networks, with something that answers in the internet and at Cork."""
    with contextlib.ExitStack() as stack:
        made = lay_networks(stack, weather, proxied)
        for network, host in ((made.internet, ARCHIVE), (made.inside["cork"], CORK)):
            echo = subprocess.Popen(
                ["nsenter", "--net", "--target", str(network), sys.executable, "-c", ECHO, host],
                stdout=subprocess.PIPE,
            )
            stack.callback(echo.communicate)
            stack.callback(echo.kill)
            assert echo.stdout is not None
            assert echo.stdout.readline() == b"ready\n"
        yield made


def test_one_nat_is_symmetric_and_one_is_a_cone_without_udp() -> None:
    with land() as made:
        seen = {
            name: [run(made.inside[name], PORT_SEEN, host) for host in (ARCHIVE, CORK)]
            for name in ("aarhus", "bergen")
        }
        assert seen["bergen"] == ["5000", "5000"]
        assert len({*seen["aarhus"], "5000", ""}) == 4
        assert run(made.inside["aarhus"], DATAGRAMS, CORK, "1").split()[0] == "1"
        assert run(made.inside["bergen"], DATAGRAMS, CORK, "1").split()[0] == "0"
        assert not run(made.inside["cork"], PORT_SEEN, "198.51.100.6"), "nothing begins outside"
        made.cut("bergen")
        assert not run(made.inside["bergen"], PORT_SEEN, CORK)
        made.heal("bergen")
        assert run(made.inside["bergen"], PORT_SEEN, CORK) == "5000"


def test_what_is_behind_a_proxy_reaches_it_alone() -> None:
    with land(proxied=("bergen",)) as made:
        assert not run(made.inside["bergen"], PORT_SEEN, CORK)
        assert run(made.inside["bergen"], THROUGH, "10.2.0.1", CORK).isdecimal()


def test_weather_delays_and_loses() -> None:
    with land(Weather(delay=0.05, loss=0.01)) as made:
        count, first = run(made.inside["aarhus"], DATAGRAMS, CORK, "2000").split()
        assert 0.2 <= float(first) < 1, "two cables, there and back"
        assert 1820 <= int(count) <= 1980, "four cables, each of which loses one of a hundred"
        assert run(made.inside["bergen"], PORT_SEEN, CORK) == "5000"
