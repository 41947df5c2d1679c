"""Users of images: their numbers are in the image's own files."""

from __future__ import annotations

from gridcloud.drivers.instances.container_engine import ContainerEngine
from gridcloud.errors import NotFound, Rejected

__all__ = ["find_ids", "is_root"]


def find_ids(engine: ContainerEngine, container: str, user: str) -> tuple[int, int]:
    """Return the numbers of a user as the image knows it. Raises Rejected for a name that it does not."""
    name, _, group = user.partition(":")
    if not name or name.isdecimal():
        uid = int(name or 0)
        found = [row for row in _rows(engine, container, "/etc/passwd") if not group and row[2:3] == [name]]
    else:
        found = [row for row in _rows(engine, container, "/etc/passwd") if row[0] == name]
        if not found:
            raise Rejected(
                f"The image has no user {name!r}.", remedy="Set 'user' to a number, or to one it has."
            )
        uid = int(found[0][2])
    if group.isdecimal():
        return uid, int(group)
    if group:
        groups = [row for row in _rows(engine, container, "/etc/group") if row[0] == group]
        if not groups:
            raise Rejected(f"The image has no group {group!r}.", remedy="Set 'user' to numbers.")
        return uid, int(groups[0][2])
    return uid, int(found[0][3]) if found else 0


def is_root(user: str) -> bool:
    """Tell whether a user is root; one that is not named is, as in images."""
    return user.partition(":")[0] in ("", "root") or user.partition(":")[0].strip("0") == ""


def _rows(engine: ContainerEngine, container: str, path: str) -> list[list[str]]:
    try:
        text = engine.read(container, path).decode(errors="replace")
    except NotFound:
        return []
    return [row for line in text.splitlines() if len(row := line.split(":")) >= 3]
