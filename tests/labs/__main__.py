"""Make what the labs need and is kept: `python -m tests.labs`. Quick when it is there; minutes the first time.

`python -m tests.labs NAME…` makes that of a heavy lab beside (`kubernetes`, `openstack`), `all` that of each.
"""

import sys
from collections.abc import Callable
from typing import Literal

from tests.labs.containers import missing_for_engine, prepare_images
from tests.labs.helm import missing_for_helm, prepare_helm
from tests.labs.kubernetes import missing_for_kubernetes, prepare_kubernetes
from tests.labs.machines import missing_for_machines
from tests.labs.openstack_build import missing_to_build, prepare_openstack
from tests.labs.ownership import root_filesystem
from tests.labs.virtual_machines import missing_for_virtual_machines, prepare_image

__all__ = ["main"]

ENGINES: tuple[Literal["podman", "docker"], ...] = ("podman", "docker")


HEAVY: dict[str, tuple[Callable[[], str | None], Callable[[], object]]] = {
    "kubernetes": (missing_for_kubernetes, prepare_kubernetes),
    "openstack": (missing_to_build, prepare_openstack),
}
"""Heavy labs by name: why one cannot be made here, and what makes it."""


def main(names: list[str]) -> None:
    """Build the root file system, the image store of each engine, the image of virtual machines, and the heavy labs
    that are named, and fetch Helm, where they can be used at all."""
    heavy = list(HEAVY) if names == ["all"] else names
    if unknown := [name for name in heavy if name not in HEAVY]:
        sys.exit(f"no lab is called {unknown[0]}; there are: {', '.join(HEAVY)}")
    missing = missing_for_machines()
    if missing is None:
        root_filesystem()
    reasons = [missing]
    for name in ENGINES:
        reason = missing_for_engine(name)
        reasons.append(reason)
        if reason is None:
            prepare_images(name)
    reasons.append(missing_for_virtual_machines())
    if reasons[-1] is None:
        prepare_image()
    reasons.append(missing_for_helm())
    if reasons[-1] is None:
        prepare_helm()
    for lab in heavy:
        missing_for_lab, prepare = HEAVY[lab]
        reasons.append(missing_for_lab())
        if reasons[-1] is None:
            prepare()
    for reason in reasons:
        if reason:
            print(f"will not be tested: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
