"""How much one member may send: a bucket for each that fills again with time, so that a flood stays its own."""

from __future__ import annotations

from gridcloud.errors import Throttled

__all__ = ["Allowance"]


class Allowance:
    """Messages and bytes that each sender may send at once, and per second from then on.

    Ask it before a message is read, with the member that the connection itself proved (its certificate), not the one
    that the message names.
    """

    def __init__(
        self,
        messages: float = 200,
        per_second: float = 20,
        bytes_: float = 32 << 20,
        bytes_per_second: float = 1 << 20,
    ) -> None:
        self._most = (float(messages), float(bytes_))
        self._rate = (float(per_second), float(bytes_per_second))
        self._left: dict[str, tuple[float, float, int]] = {}

    def take(self, sender: str, size: int, now: int) -> None:
        """Count a message of `size` bytes at `now` (milliseconds); raises Throttled, with the seconds to wait."""
        messages, space, last = self._left.get(sender, (*self._most, now))
        passed = max(0, now - last) / 1000
        messages = min(self._most[0], messages + passed * self._rate[0])
        space = min(self._most[1], space + passed * self._rate[1])
        wait = max((1 - messages) / self._rate[0], (min(size, self._most[1]) - space) / self._rate[1])
        if wait > 0:
            self._left[sender] = (messages, space, now)
            raise Throttled(
                f"{sender} sends too much",
                remedy=f"Wait {wait:.1f} s.",
                details={"who": sender, "what": f"a message of {size} bytes", "seconds": wait},
            )
        self._left[sender] = (messages - 1, space - size, now)

    def forget(self, now: int) -> None:
        """Forget who has its whole allowance again."""
        self._left = {
            sender: left
            for sender, left in self._left.items()
            if any(
                have + (now - left[2]) / 1000 * rate < most
                for have, rate, most in zip(left[:2], self._rate, self._most, strict=True)
            )
        }

    def __len__(self) -> int:
        return len(self._left)
