"""The networks of three institutions, and an internet between them. Needs root.

Aarhus is behind a symmetric NAT: a port of its own for each place that is spoken to. Bergen is behind that of a cone:
one port wherever it speaks to; its firewall drops UDP. What begins outside reaches neither. Cork has an address of its
own. Where one is `proxied`, it reaches nothing but an HTTP proxy on its router.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tests.agents.sites import ROOT, make_network, run_within, wire
from tests.weather import CLEAR, Weather, wire_through

__all__ = ["ARCHIVE", "CORK", "Landscape", "lay_networks"]

CORK = "203.0.113.2"
"""Where others reach Cork."""
ARCHIVE = "198.51.100.65"
"""An address in the internet that belongs to none of the three."""
PROXY_PORT = 3128


@dataclass(frozen=True)
class Landscape:
    """Processes that hold the networks, by the institutions' names in small letters."""

    internet: int
    inside: Mapping[str, int]
    routers: Mapping[str, int]
    proxies: Mapping[str, str]
    """URLs of HTTP proxies."""

    def cut(self, name: str) -> None:
        """Let every packet between an institution and the internet vanish, both ways, without a word."""
        run_within(self.internet, "iptables", "-w", "-I", "FORWARD", "-i", f"to-{name}", "-j", "DROP")
        run_within(self.internet, "iptables", "-w", "-I", "FORWARD", "-o", f"to-{name}", "-j", "DROP")

    def heal(self, name: str) -> None:
        """Undo `cut`."""
        run_within(self.internet, "iptables", "-w", "-D", "FORWARD", "-i", f"to-{name}", "-j", "DROP")
        run_within(self.internet, "iptables", "-w", "-D", "FORWARD", "-o", f"to-{name}", "-j", "DROP")


def lay_networks(
    stack: contextlib.ExitStack, weather: Weather = CLEAR, proxied: Collection[str] = ()
) -> Landscape:
    """Make the networks, which go with the stack. ``weather``: on the way of each institution to the internet."""
    internet = make_network(stack)
    run_within(internet, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run_within(internet, "ip", "addr", "add", f"{ARCHIVE}/32", "dev", "lo")
    inside = {name: make_network(stack) for name in ("aarhus", "bergen", "cork")}
    routers = {name: make_network(stack) for name in ("aarhus", "bergen")}
    proxies = {}
    for number, (name, router) in enumerate(routers.items(), 1):
        outside = f"198.51.100.{4 * number}"
        near, far = f"{_next(outside, 1)}/30", f"{_next(outside, 2)}/30"
        _join(internet, f"to-{name}", near, router, "outside", far, (stack, weather))
        run_within(router, "ip", "route", "add", "default", "via", _next(outside, 1))
        _join(router, "inside", f"10.{number}.0.1/24", inside[name], "lan", f"10.{number}.0.2/24")
        run_within(inside[name], "ip", "route", "add", "default", "via", f"10.{number}.0.1")
        for rule in _rules(name, name in proxied):
            run_within(router, "iptables", "-w", *rule.split())
        if name in proxied:
            proxies[name] = _start_proxy(stack, router, f"10.{number}.0.1")
        else:
            run_within(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    _join(internet, "to-cork", "203.0.113.1/30", inside["cork"], "wan", f"{CORK}/30", (stack, weather))
    run_within(inside["cork"], "ip", "route", "add", "default", "via", "203.0.113.1")
    return Landscape(internet, inside, routers, proxies)


def _rules(name: str, proxied: bool) -> list[str]:
    rules = ["-P FORWARD DROP"]
    if proxied:
        return rules
    # With a port of its own for each connection, wherever it leads to, a NAT is symmetric; a cone keeps the port.
    how = " --random-fully" if name == "aarhus" else ""
    rules.append(f"-t nat -A POSTROUTING -o outside -j MASQUERADE{how}")
    if name == "bergen":
        rules.append("-A FORWARD -p udp -j DROP")
    return [*rules, "-A FORWARD -i inside -j ACCEPT", "-A FORWARD -m state --state ESTABLISHED -j ACCEPT"]


def _start_proxy(stack: contextlib.ExitStack, router: int, host: str) -> str:
    proxy = subprocess.Popen(
        [
            *("nsenter", "--net", "--target", str(router)),
            *(sys.executable, "-m", "tests.proxies", host, str(PROXY_PORT)),
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    stack.callback(proxy.communicate)
    stack.callback(proxy.kill)
    assert proxy.stdout is not None
    assert proxy.stdout.readline() == b"ready\n"
    return f"http://{host}:{PROXY_PORT}"


def _join(
    one: int,
    card: str,
    address: str,
    other: int,
    far: str,
    there: str,
    through: tuple[contextlib.ExitStack, Weather] | None = None,
) -> None:
    if through is None or through[1] == CLEAR:
        wire(one, card, other, far)
    else:
        stack, weather = through
        wire_through(weather, stack, one, card, other, far)
    for network, name, place in ((one, card, address), (other, far, there)):
        run_within(network, "ip", "addr", "add", place, "dev", name)
        run_within(network, "ip", "link", "set", name, "up")


def _next(address: str, by: int) -> str:
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) + by}"
