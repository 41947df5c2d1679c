"""What of an earlier run of a notebook is still good, and what has to be run again.

A cell's outputs are in the file; what it left in the kernel's memory is not, and nobody can tell which of it
the later cells use: a name may be used through any other. So there are three ways to go on, and none of them
guesses:

- The kernel that the cell failed in still lives (`--hold`): its memory is what it was, and the run goes on at
  the failed cell.
- It does not: the cells before are run again, and so give the later ones what they need. Those tagged
  `skip-on-resume` are not: their author says that all they do is in files, or is not needed. Their outputs
  are kept.
- A cell before the failed one is another than the one that ran, or the parameters are: everything is run
  anew.

The failed cell itself and those behind it may have been changed: that is how one gets past it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.notebooks import Notebook

__all__ = ["RUN", "SKIPPED", "Plan", "plan_resumption", "run_record"]

SKIPPED = "skip-on-resume"
"""The tag of cells that are not run again."""
RUN = "run"
"""Where the story of a run is kept: under this key of the metadata's `gridcloud`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    notebook: Notebook
    """As it begins: with the outputs of cells that are kept, or will be run again."""
    failed: int = 0
    """The first cell that was not done, from 0."""
    kept: frozenset[int] = field(default_factory=frozenset)
    """Cells that are not run again where the kernel's memory is lost."""
    done: bool = False
    """Whether there is nothing to run: it was done."""
    why: str = ""
    """What happens, in words, for whoever asked."""


def plan_resumption(notebook: Notebook, before: Notebook | None) -> Plan:
    """Return what a run of a notebook, which has its parameters, does after an earlier run that left
    ``before``.
    """
    if before is None:
        return Plan(notebook, why="Nothing was run before: all cells are run.")
    record = run_record(before)
    if not record:
        raise InvalidRequest(
            "The output is no notebook that was run here, and would be written over.",
            remedy="Choose another output, or leave --resume out.",
        )
    failed = min(int(record.get("next", 0)), len(before["cells"]))
    done = record.get("state") == "done"
    new, old = notebook["cells"], before["cells"]
    if len(new) < failed or any(_code(new[one]) != _code(old[one]) for one in range(failed)):
        changed = next(
            (one for one in range(min(failed, len(new))) if _code(new[one]) != _code(old[one])), len(new)
        )
        return Plan(
            notebook, why=f"Cell {changed + 1} is another than the one that ran: all cells are run anew."
        )
    if done and len(new) == len(old):
        return Plan(before, failed=failed, done=True, why="It was done before: nothing is run.")
    made = copy.deepcopy(notebook)
    for one in range(failed):
        made["cells"][one] = copy.deepcopy(old[one])
    kept = frozenset(one for one in range(failed) if SKIPPED in _tags(new[one]))
    again = sum(1 for one in range(failed) if _is_code(new[one]) and one not in kept)
    what = f"{again} before it are run again" + (f", {len(kept)} are not ({SKIPPED})" if kept else "")
    return Plan(
        made, failed, kept, why=f"Cell {failed + 1} is the first that was not done; of those, {what}."
    )


def run_record(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a notebook's metadata say of its run; empty where it was not run by this."""
    kept = notebook.get("metadata", {}).get("gridcloud", {})
    found = kept.get(RUN) if isinstance(kept, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def _code(cell: Mapping[str, Any]) -> str | None:
    """A cell's source, or None where it is none that runs."""
    if not _is_code(cell):
        return None
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _is_code(cell: Mapping[str, Any]) -> bool:
    return cell.get("cell_type") == "code"


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", ()))
