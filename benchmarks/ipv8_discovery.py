"""What pyipv8 takes until all know all: a program for the interpreter that has it, which is not ours.

    PYTHON benchmarks/ipv8_discovery.py MEMBERS SECONDS

Prints the seconds on one line, and whom the least informed member knew where not all knew all in time. Imports nothing
of gridcloud.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

from ipv8.community import Community, CommunitySettings  # type: ignore[import-not-found]
from ipv8.configuration import ConfigBuilder, Strategy, WalkerDefinition  # type: ignore[import-not-found]
from ipv8_service import IPv8  # type: ignore[import-not-found]

PORT = 18090


class Members(Community):
    """A community that does nothing but find its members."""

    community_id = b"gridcloud benchmark!"

    def __init__(self, settings: CommunitySettings) -> None:
        settings.max_peers = -1
        super().__init__(settings)


async def discover(members: int, seconds: float) -> tuple[float, int]:
    """Return the seconds, and how many others the least informed member knows."""
    services: list[Any] = []
    begin = time.perf_counter()
    try:
        for number in range(members):
            services.append(IPv8(_configuration(number), extra_communities={"Members": Members}))
            await services[-1].start()
        while True:
            fewest = min(len(one.overlays[0].get_peers()) for one in services)
            for one in services[1:]:
                if not one.overlays[
                    0
                ].get_peers():  # the first member is where the others begin, as an inviter is
                    one.overlays[0].walk_to((_own_address(), PORT))
            passed = time.perf_counter() - begin
            if fewest >= members - 1 or passed > seconds:
                return passed, fewest
            await asyncio.sleep(0.1)
    finally:
        for one in services:
            await one.stop()


def _configuration(number: int) -> Any:
    builder = (
        ConfigBuilder().clear_keys().clear_overlays().set_port(PORT + number).set_address(_own_address())
    )
    builder.set_log_level("CRITICAL").add_ephemeral_key("us")
    walk = [WalkerDefinition(Strategy.RandomWalk, -1, {"timeout": 3.0})]
    builder.add_overlay("Members", "us", walk, [], {}, [])
    return builder.finalize()


def _own_address() -> str:
    """Return an address of a network card: pyipv8 introduces nobody to others at loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    taken, known = asyncio.run(discover(int(sys.argv[1]), float(sys.argv[2])))
    print(f"{taken:.3f} {known}")
