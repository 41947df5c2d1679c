"""``gridcloud grid simulate``: institutions, users and a network that are made up, and the protocol as it is."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.cli.steps import Steps
from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound

if TYPE_CHECKING:
    from gridcloud.federation.scenario import Scenario
    from gridcloud.federation.simulated_discovery import Found
    from gridcloud.federation.simulation import Results, Served

__all__ = ["simulate"]

LARGEST = 2**20
"""Bytes of a scenario's file."""


@framed
def simulate(
    frame: Frame,
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO…", help="YAML files; more than one stand side by side. -: standard input."
        ),
    ],
) -> int:
    """Simulate up to 1,000 institutions that lend to each other: what is served, how fairly, at what cost.

    The protocol's own code runs, on a network and clocks that are made up. The same scenario gives the same figures.
    """
    from gridcloud.federation.simulation import simulate as run

    found: list[tuple[str, Scenario, Results]] = []
    read = {name: _read(name) for name in scenarios}  # all are read before the first minute is spent
    for name, scenario in read.items():
        with Steps(frame, f"Simulating {scenario.members} institutions") as steps:
            steps.wait_for(
                f"Simulating {name}: {scenario.members} institutions, {scenario.hours:g} h of lending"
            )
            found.append((name, scenario, run(scenario)))
    if frame.json:
        frame.show({"simulations": [_document(*one) for one in found]})
    else:
        _print(found)
    unsound = [name for name, _, results in found if results.lending and results.lending.twice]
    for name in unsound:
        error_console().print(
            f"{plain(name)}: a lease was in use by two, which must never be: please report it."
        )
    return 1 if unsound else 0


def _read(name: str) -> Scenario:
    from gridcloud.federation.scenario import read_scenario

    if name == "-":
        return read_scenario(sys.stdin.read(LARGEST), "standard input")
    path = Path(name)
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidRequest(f"{name} has more than {LARGEST} bytes: this is no scenario.")
        return read_scenario(path.read_text(encoding="utf-8"), name)
    except FileNotFoundError:
        raise NotFound(f"There is no {name}.", remedy="Name a file with a scenario.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"The scenario {name} cannot be read: {error}.") from error


def _document(name: str, scenario: Scenario, results: Results) -> dict[str, Any]:
    return {"name": name, "scenario": dataclasses.asdict(scenario), "results": results.document()}


def _print(found: Sequence[tuple[str, Scenario, Results]]) -> None:
    names = [Path(name).stem if name != "-" else "standard input" for name, _, _ in found]
    parts = [(results.discovery, results.lending, scenario) for _, scenario, results in found]
    rows: list[tuple[str, ...]] = [("institutions", *(f"{scenario.members:,}" for _, _, scenario in parts))]
    rows += [(said, *(show(discovery) for discovery, _, _ in parts)) for said, show in _DISCOVERY]
    if any(lending for _, lending, _ in parts):
        rows.append(("hours of lending", *(f"{scenario.hours:g}" for _, _, scenario in parts)))
        rows += [
            (said, *(show(lending) if lending else "" for _, lending, _ in parts)) for said, show in _LENDING
        ]
    print_table(("PER MEMBER ON AVERAGE", *names), rows)


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _bytes(amount: float) -> str:
    """Return an amount in decimal units, as networks are measured."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:.0f} B"


_DISCOVERY: tuple[tuple[str, Callable[[Found], str]], ...] = (
    (
        "all known after",
        lambda one: f"{one.seconds:.1f} s" if one.complete else f"not in {one.seconds:.0f} s",
    ),
    ("  messages sent until then", lambda one: f"{one.messages:.0f}"),
    ("  bytes sent until then", lambda one: _bytes(one.bytes)),
    ("  signatures checked until then", lambda one: f"{one.checks:.0f}"),
    ("messages an hour, nothing new", lambda one: f"{one.quiet_messages:.0f}"),
    ("bytes an hour, nothing new", lambda one: _bytes(one.quiet_bytes)),
)

_LENDING: tuple[tuple[str, Callable[[Served], str]], ...] = (
    ("sessions (of all)", lambda one: f"{one.sessions:,}"),
    ("  served to their end", lambda one: _percent(one.satisfaction)),
    ("  begun at home", lambda one: _percent(one.at_home)),
    ("  begun at a peer", lambda one: _percent(one.at_peers)),
    ("  moved while they ran", lambda one: f"{one.moved:,}"),
    ("  moved, and no place found", lambda one: f"{one.broken:,}"),
    ("served, of those who lend", lambda one: _percent(one.lenders)),
    ("served, of those who only take", lambda one: _percent(one.takers)),
    ("fairness (Jain's index)", lambda one: f"{one.fairness:.3f}"),
    ("balance of giving and taking (Jain's index)", lambda one: f"{one.balance:.3f}"),
    ("core-hours lent (of all)", lambda one: f"{one.given_hours:,.1f}"),
    ("claims disputed (of all)", lambda one: f"{one.disputed:,}"),
    ("messages an hour", lambda one: f"{one.messages:.0f}"),
    ("bytes an hour", lambda one: _bytes(one.bytes)),
    ("signatures made an hour", lambda one: f"{one.signatures:.0f}"),
    ("leases in use by two", lambda one: f"{one.twice}"),
)
