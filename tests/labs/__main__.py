"""Make what the labs need and is kept: `python -m tests.labs`. Quick when it is there; minutes the first time."""

import sys
from typing import Literal

from tests.labs.containers import missing_for_engine, prepare_images
from tests.labs.machines import missing_for_machines
from tests.labs.ownership import root_filesystem

__all__ = ["main"]

ENGINES: tuple[Literal["podman", "docker"], ...] = ("podman", "docker")


def main() -> None:
    """Build the root file system and the image store of each engine, where they can be used at all."""
    missing = missing_for_machines()
    if missing is None:
        root_filesystem()
    reasons = [missing]
    for name in ENGINES:
        reason = missing_for_engine(name)
        reasons.append(reason)
        if reason is None:
            prepare_images(name)
    for reason in reasons:
        if reason:
            print(f"will not be tested: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
