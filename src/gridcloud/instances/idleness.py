"""Whether an instance is used: no busy kernel, no running command, no terminal in use, no work of CPU or GPU.

A small shell program looks on the machine now and then; what runs through us, we know ourselves. What cannot be told
counts as use: a machine is never ended by mistake for work that was not seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from gridcloud import connections
from gridcloud.clock import Clock
from gridcloud.connections.driver import Command
from gridcloud.errors import Conflict, GridcloudError, Rejected
from gridcloud.instances.choice import offer_of
from gridcloud.instances.links import Links
from gridcloud.instances.model import Instance, Kind, Reason, State
from gridcloud.instances.timing import Timing
from gridcloud.store.lives import Lives

__all__ = ["PROBE", "Asked", "Idleness", "Sighting", "describe_use", "idle_end", "read_sighting"]

Asked = Callable[[Instance], Awaitable[str | None]]
"""Returns how an instance is used, in words; nothing where it is not, None where that cannot be told."""

End = Callable[[str, Reason, str], Awaitable[Instance]]

LEAST_CPU = 0.03
"""Share of one core above which an instance is at work: a Jupyter server that nobody uses takes under a hundredth."""

LEAST_GPU = 5
"""Use of a GPU in percent above which it is at work."""

PATIENCE = 20.0
"""Seconds that a look may take."""

SAID = 1 << 20
"""Bytes that a look may say: some for each terminal."""

TIME = re.compile(r"\d+m[\d.]+s")
"""A time as the shell's ``times`` prints it: ``1m2.5s``."""

# Arguments: "used" where we know of use (the machine's own clock begins anew), "all" to count every process and not
# the account's own, "gpu" to ask for GPUs. Counted are the processes of this instance where they carry its name, else
# those of this account, and what it runs as another by sudo.
PROBE = r"""
[ "$1" != used ] || touch -c /var/lib/gridcloud-machine/used 2>/dev/null
me=$(id -u)
if [ -n "$GRIDCLOUD_INSTANCE" ]; then
  pids=$(grep -lszxF "GRIDCLOUD_INSTANCE=$GRIDCLOUD_INSTANCE" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
elif [ "$2" = all ]; then
  pids=$(cd /proc && echo [0-9]*)
else
  pids=$(find /proc -maxdepth 1 -name '[0-9]*' -user "$me" 2>/dev/null | cut -d/ -f3
    grep -lsx "$me" /proc/[0-9]*/loginuid 2>/dev/null | cut -d/ -f3)
fi
echo "hertz $(getconf CLK_TCK 2>/dev/null || echo 100)"
stats=$(for pid in $pids; do echo "/proc/$pid/stat"; done | sort -u)
seen=$(cat $stats 2>/dev/null </dev/null | awk '
  { sub(/^.*\) /, ""); ticks += $12 + $13 + $14 + $15
    major = int($5 / 256) % 4096; minor = $5 % 256 + int($5 / 1048576) * 256
    if (major >= 136 && major <= 143) terminals[(major - 136) * 256 + minor] = 1 }
  END { printf "ticks %.0f\n", ticks; for (one in terminals) print "terminal " one }')
echo "$seen" | grep '^ticks'
now=$(date +%s)
echo "$seen" | sed -n 's/^terminal //p' | while read -r one; do
  stat -c '%X %Y' "/dev/pts/$one" 2>/dev/null | while read -r read written; do
    [ "$written" -le "$read" ] || read=$written
    echo "terminal $((now - read))"
  done
done
if [ "$3" = gpu ] && command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu /'
fi
# Not piped: a shell of its own would tell of itself.
times
"""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look saw. Seconds, save the last."""

    at: float
    """Of the clock that only goes forward."""
    cpu: float
    """CPU time of its processes so far."""
    spent: float = 0.0
    """CPU time of the look itself."""
    terminal: float | None = None
    """Since something was typed or said on a terminal; None: there is none."""
    gpu: int = 0
    """Percent."""


def read_sighting(text: str, at: float) -> Sighting:
    """Read what the probe printed. Raises Rejected for what is no such thing."""
    words = [line.split() for line in text.splitlines() if line.strip()]
    numbers = {
        line[0]: [one for other in words if other[0] == line[0] for one in other[1:]] for line in words
    }
    try:
        hertz = int(numbers["hertz"][0])
        ages = [max(0.0, float(one)) for one in numbers.get("terminal", ())]
        return Sighting(
            at=at,
            cpu=int(numbers["ticks"][0]) / hertz,
            spent=sum(_seconds(one) for line in words for one in line if TIME.fullmatch(one)),
            terminal=min(ages, default=None),
            gpu=max((int(one) for one in numbers.get("gpu", ()) if one.isdigit()), default=0),
        )
    except (KeyError, ValueError, IndexError, ArithmeticError) as error:
        raise Rejected(f"It cannot be told what runs there: {text.strip()[-200:]!r}") from error


def describe_use(before: Sighting | None, now: Sighting) -> str:
    """Return how it was used between two looks, in words; nothing where it was not."""
    if before is None:
        return "it is being looked at for the first time"
    span = now.at - before.at
    if now.terminal is not None and now.terminal <= span + 10:  # the kernel rounds these to 8 s
        return "a terminal is used"
    if now.gpu >= LEAST_GPU:
        return f"a GPU is at work ({now.gpu} %)"
    share = (now.cpu - before.cpu - before.spent) / span if span > 0 else 0.0
    return f"its programs are at work ({share:.0%} of a core)" if share >= LEAST_CPU else ""


def idle_end(instance: Instance) -> datetime | None:
    """Return when an instance ends unless it is used before; None where it is used, or may be idle."""
    if instance.idle_since is None or not instance.request.idle:
        return None
    return instance.idle_since + timedelta(seconds=instance.request.idle)


class Idleness:
    """Looks whether ready instances are used, and has those end that were not for too long."""

    def __init__(
        self, records: Lives[Instance], links: Links, clock: Clock, timing: Callable[[], Timing], end: End
    ) -> None:
        self.asked: list[Asked] = []
        """Whom to ask besides the machine itself."""
        self._records = records
        self._links = links
        self._clock = clock
        self._timing = timing
        self._end = end
        self._sightings: dict[str, Sighting] = {}
        self._warned: set[str] = set()
        self._untold: set[str] = set()
        self._renewed: set[str] = set()
        """Whose idle time begins anew, which the machine itself is to be told."""
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def using(self, instance_id: str) -> Iterator[None]:
        """Count an instance as used within."""
        self._running[instance_id] += 1
        try:
            yield
        finally:
            self._running[instance_id] -= 1
            if not self._running[instance_id]:
                del self._running[instance_id]

    def pause(self, instance: Instance) -> float:
        """Return how many seconds may pass between two looks; 0 for what may be idle for ever."""
        return min(self._timing().use, max(0.5, instance.request.idle / 4)) if instance.request.idle else 0.0

    def forget(self, instance_id: str) -> None:
        """Let go of what is known of an instance that is no longer ready."""
        self._sightings.pop(instance_id, None)
        self._warned.discard(instance_id)
        self._untold.discard(instance_id)
        self._renewed.discard(instance_id)

    def renew(self, instance_id: str) -> None:
        """Have the idle time of an instance begin anew on its machine as well: somebody said that it is in use."""
        self._renewed.add(instance_id)

    async def look(self, instance: Instance) -> None:
        """Look once; warn of its end, or end it, when it was not used for long. Raises nothing for a silent one."""
        known = await self._known_use(instance)
        before = self._sightings.get(instance.id)
        try:
            now = await self._probe(instance, known != "" or instance.id in self._renewed)
        except Rejected as error:
            await self._tell_unknown(instance, str(error))
            known = None
        except (GridcloudError, TimeoutError):  # silence is the watch's to judge
            return
        else:
            self._sightings[instance.id] = now
            self._renewed.discard(instance.id)
            known = known if known != "" else describe_use(before, now)
        with contextlib.suppress(Conflict):
            await self._judge(instance, used=known != "")

    async def _judge(self, instance: Instance, used: bool) -> None:
        instance = await self._records.get(instance.id)
        if instance.state is not State.READY:
            return
        now = self._clock.now()
        if used:
            if instance.idle_since is not None:
                told = ("used", "It is used again.") if instance.id in self._warned else ("", "")
                self._warned.discard(instance.id)
                await self._records.save(instance, *told, idle_since=None)
            return
        if instance.idle_since is None:
            self._warned.discard(instance.id)
            before = self._sightings.get(instance.id)
            since = now if before is None else now - timedelta(seconds=self.pause(instance))
            instance = await self._records.save(instance, "", "", idle_since=since)
        ends = idle_end(instance)
        if ends is None:
            return
        left = (ends - now).total_seconds()
        if left <= 0 and instance.id in self._warned:
            span = timedelta(seconds=round((now - (instance.idle_since or now)).total_seconds()))
            await self._end(instance.id, Reason.IDLE, f"It was not used for {span}.")
        elif instance.id not in self._warned and left <= self._warning(instance):
            self._warned.add(instance.id)
            message = (
                f"Not used since {instance.idle_since:%H:%M:%S} UTC; it ends at {max(ends, now):%H:%M:%S} UTC"
                " unless it is used or extended."
            )
            await self._records.tell(instance, "idling", message, {"ends": ends.isoformat()})

    def _warning(self, instance: Instance) -> float:
        return min(self._timing().warning, instance.request.idle / 2)

    async def _known_use(self, instance: Instance) -> str | None:
        if self._running[instance.id] > 0:
            return "a command runs"
        for asked in self.asked:
            if (use := await asked(instance)) != "":
                if use is None:
                    await self._tell_unknown(instance, "It cannot be told whether its session is used.")
                return use
        return ""

    async def _tell_unknown(self, instance: Instance, why: str) -> None:
        if instance.id not in self._untold:
            self._untold.add(instance.id)
            await self._records.tell(
                instance, "warning", f"{why} It is taken to be in use, and does not end for being idle."
            )

    async def _probe(self, instance: Instance, used: bool) -> Sighting:
        if instance.address is None:
            raise Rejected("It has no address.")
        offer = offer_of(instance)
        words = (
            "/bin/sh",
            "-c",
            PROBE,
            "gridcloud",
            "used" if used else "look",
            "all" if offer.kind is Kind.CONTAINER else "own",
            "gpu" if offer.shape.gpus else "none",
        )
        async with asyncio.timeout(PATIENCE):
            connection = await self._links.get(instance.id, instance.address)
            done = await connections.run(connection, Command(words), limit=SAID)
        return read_sighting(done.stdout.decode(errors="replace"), self._clock.monotonic())


def _seconds(text: str) -> float:
    minutes, _, seconds = text.removesuffix("s").partition("m")
    return int(minutes) * 60 + float(seconds)
