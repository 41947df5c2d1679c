"""Three institutions that lend to each other, shown with real processes in networks of their own: one scene, told.

``sudo .venv/bin/python -m scripts.institutions`` takes two minutes on an idle computer with two processors, and leaves
nothing. It needs Linux, root, iptables, iproute2 and curl, and what `make setup` installs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.agents.sites import processes_of, wait
from tests.grid.countries import ARCHIVE, Country, Institution, countries
from tests.grid.visitor import Visitor
from tests.weather import CLEAR, Weather

__all__ = ["main"]

PORT = 8080
PLACE = f"http://{ARCHIVE}:{PORT}/work.tgz"
SAVE = f"cd ~ && tar czf work.tgz gridcloud-demo-* && curl -sSf -T work.tgz {PLACE} && echo 'saved the work'"
RESTORE = f"""
import io, json, pathlib, tarfile, urllib.request
archive = io.BytesIO(urllib.request.urlopen("{PLACE}", timeout=20).read())
tarfile.open(fileobj=archive).extractall(pathlib.Path.home(), filter="data")
(folder,) = pathlib.Path.home().glob("gridcloud-demo-*")
steps = (folder / "steps").read_text().splitlines()
print(json.dumps([json.loads((folder / "foam.json").read_text()), len(steps)]))
"""
CELL = """
import pathlib, time
with next(pathlib.Path.home().glob("gridcloud-demo-*")).joinpath("steps").open("w") as steps:
    for step in range(3000):
        print(step, file=steps, flush=True)
        if step == 0:
            print("the cell runs", flush=True)
        time.sleep(0.2)
"""
WIDE = 110


def _here(**settings: Any) -> dict[str, Any]:
    return {"driver": "local", "allow_root": True, **settings}


LENDING = {"providers": ["cloud"], "trust_partners": True, "ttl": "30s", "grace": "30s", "tolerance": "1s"}
SECTIONS: dict[str, dict[str, Any]] = {
    "aarhus": {
        "providers": {"cluster": _here(cpus=1, memory="1GiB"), "partners": {"driver": "peer"}},
        "session": {"before_end": SAVE},
        "limits": {"offers": 30},
    },
    "bergen": {"providers": {"cloud": _here(cpus=1, memory="3GiB")}, "lending": LENDING},
    "cork": {"providers": {"cloud": _here(cpus=1, memory="3GiB", price="0.10")}, "lending": LENDING},
}


class Narrator:
    """Prints what happens, and when."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def head(self, text: str) -> None:
        print(f"\n[{self.seconds:5.1f} s] {text}", flush=True)

    def tell(self, who: str, line: str) -> None:
        print(f"  {who:7}{line}"[: WIDE + 40], flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the scene; return 0 when all went as it should."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, help="where the executed notebooks go; nowhere if left out")
    parser.add_argument("--delay", type=float, default=0, help="ms that packets take from one to another")
    parser.add_argument("--loss", type=float, default=0, help="percent of them that are lost on the way")
    chosen = parser.parse_args(arguments)
    # Each has a cable to the internet: two lie between any of them.
    weather = Weather(chosen.delay / 2000, chosen.loss / 200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up on the way
    folder = Path(tempfile.mkdtemp(prefix="gridcloud-institutions-"))
    narrator = Narrator()
    try:
        narrator.head("Three gridclouds start, each in a network of its own")
        narrator.tell("Aarhus", "has a cluster of one core behind a symmetric NAT, and a hub for its people.")
        narrator.tell(
            "Bergen", "has a cloud behind another, and a firewall: no UDP, nothing that begins outside."
        )
        narrator.tell("Cork", "has a cloud and an address, and relays for those who have none.")
        if weather != CLEAR:
            lost = f"{chosen.loss:g} % of them are lost"
            narrator.tell("", f"Packets from one to another take {chosen.delay:g} ms, and {lost}.")
        with countries(folder, SECTIONS, hub=True, tell=narrator.tell, weather=weather) as country:
            _show(country, narrator, folder, chosen.output or folder / "output")
            for one in country.all:
                wait(lambda one=one: not one.ask("instances")["instances"], seconds=60)
            made = [made["id"] for one in country.all for made in one.ask("instances?all=true")["instances"]]
        narrator.head("Everything has ended")
        left = _left(folder, country, made)
        narrator.tell("", "left: " + (", ".join(left) or "no instance, no process, no network"))
        return 1 if left else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _show(country: Country, narrator: Narrator, folder: Path, output: Path) -> None:
    aarhus, bergen, _ = country.all
    country.serve_archive(PORT)
    narrator.head("Cork founds a community; fingerprints are read over the telephone, invitations mailed")
    country.join("north")
    aarhus.run("grid status")
    narrator.head("Aarhus's cluster is full, so that a command falls over to Bergen, through Cork")
    full = aarhus.run("instance start --on cluster --cpus 1 --memory 256MiB").split()[0]
    aarhus.run("offers --cpus 1 --memory 1GiB")
    aarhus.run("run --cpus 1 --memory 512MiB -- ip -br -4 addr show scope global")
    with Visitor(aarhus, lambda line: narrator.tell("Aarhus", f"  {line}")) as person:
        narrator.head("So does a session, and the foam notebook runs in it")
        person.order(do="start", options={"cpus": 1, "memory": "2GiB"})
        _expect(_lender(aarhus), "Bergen")
        first = person.order(do="notebook", output=str(output / "bergen"))
        narrator.tell("Aarhus", f"  {first['found_pores']} pores found, {first['true_pores']} true")
        narrator.head("A cell runs when Bergen needs its cloud: it warns, and the session moves to Cork")
        _expect(person.order(do="begin", text=CELL), "the cell runs\n")
        session = aarhus.ask("sessions")["sessions"][-1]
        bergen.run("grid leases")
        bergen.run("grid drain --in 24s --yes --why", "exam week")
        notice = _wait_for_notice(aarhus, session["instance_id"])
        narrator.tell("Aarhus", f"  the page of the hub says: {notice}")
        moved = _wait_for_move(aarhus, session)
        for subject in (session["instance_id"], moved["instance_id"]):
            for line in filter(_matters, _story(aarhus, subject)):
                narrator.tell("Aarhus", f"  {line}")
        _expect(_lender(aarhus), "Cork")
        _expect(str(person.order(do="ended")).partition(":")[0], "broken off")
        found, steps = json.loads(person.order(do="code", text=RESTORE))
        _expect((found, steps > 0), (first, True))
        narrator.tell(
            "Aarhus", f"  what was found in Bergen is there, {steps} steps of the cell too; it runs on"
        )
        again = person.order(do="notebook", output=str(output / "cork"))
        _expect(again, first)
        person.order(do="stop")
    aarhus.run("instance stop", full)
    narrator.head("What was given and taken: each has its own books")
    _compare(country)


def _compare(country: Country) -> None:
    """Show the books, and see that they agree."""
    wait(lambda: _books_agree(country), lambda: str([_books(one) for one in country.all]), 60)
    for one in country.all:
        one.run("grid ledger")
    country.aarhus.run("grid report")


def _books(one: Institution) -> dict[str, dict[str, Any]]:
    return {entry["lease"]: entry for entry in one.ask("grid/ledger")["records"]}


def _books_agree(country: Country) -> bool:
    books = [_books(one) for one in country.all]
    if any(entry["standing"] != "agreed" for book in books for entry in book.values()):
        return False
    bought, *sold = (
        {lease: (entry["lender"], entry["amount"]) for lease, entry in book.items()} for book in books
    )
    return bought == {lease: entry for book in sold for lease, entry in book.items()} and all(sold)


def _lender(aarhus: Institution) -> str:
    session = aarhus.ask("sessions")["sessions"][-1]
    offer = aarhus.ask(f"instances/{session['instance_id']}")["offer"]
    return str(offer["location"])


def _story(one: Institution, subject: str) -> list[str]:
    said = one.run(f"instance events {subject}", quiet=True)
    return [line.rstrip() for line in said.splitlines()]


def _wait_for_notice(aarhus: Institution, instance: str) -> str:
    """Return what the owner of an instance is warned of."""

    def notice() -> str:
        return str(aarhus.ask(f"instances/{instance}").get("notice") or "")

    wait(notice, seconds=60)
    _expect("takes its machine back" in notice(), True)
    return notice()


def _wait_for_move(aarhus: Institution, session: dict[str, Any]) -> dict[str, Any]:
    """Return a session once it runs on another instance; see that it was warned and saved before."""
    former = session["instance_id"]

    def moved() -> bool:
        now = aarhus.ask(f"sessions/{session['id']}")
        return bool(now["state"] == "running" and now["instance_id"] != former)

    wait(moved, lambda: "\n".join(_story(aarhus, former)), 240)
    story = _story(aarhus, former)
    for words in ("Bergen takes its machine back (exam week)", "saved the work", "exit code 0"):
        _expect([words for line in story if words in line][:1], [words])
    now: dict[str, Any] = aarhus.ask(f"sessions/{session['id']}")
    return now


def _matters(line: str) -> bool:
    words = ("Chose", "Not partners", "takes its machine back", "Before its end", "saved", "before the end")
    return any(one in line for one in words)


def _expect(found: object, wanted: object) -> None:
    """End the scene where something is not as it should be."""
    if found != wanted:
        raise SystemExit(f"{found} instead of {wanted}")


def _left(folder: Path, country: Country, instances: Sequence[str]) -> list[str]:
    """Return what is still there after the end, in words."""
    places = [Path("/tmp"), *Path("/sys/fs/cgroup").glob("*/gridcloud"), Path("/sys/fs/cgroup/gridcloud")]  # noqa: S108
    named = [place / name for place in places for one in instances for name in (one, f"gridcloud-{one}")]
    left = [f"process {pid}" for pid in processes_of(folder)]
    left += [f"folder {path}" for path in named if path.exists()]
    return left + [f"network {one.network}" for one in country.all if Path(f"/proc/{one.network}").exists()]


if __name__ == "__main__":
    sys.exit(main())
