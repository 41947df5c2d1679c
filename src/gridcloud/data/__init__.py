"""Where files live, and who reaches them: storages, shares and their links, the doors to them.

For programs, `gridcloud.data` is also the library that reads and writes shares: `open`, `find_files`,
`ShareFileSystem`, `read_links`. It is `gridcloud.files`, imported at its first use, which knows nothing of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridcloud.files.filesystem import ShareFileSystem
    from gridcloud.files.links import read_links
    from gridcloud.files.opening import find_files
    from gridcloud.files.opening import open_file as open  # noqa: A004

__all__ = ["ShareFileSystem", "find_files", "open", "read_links"]


def __getattr__(name: str) -> Any:
    if name == "ShareFileSystem":
        from gridcloud.files.filesystem import ShareFileSystem

        return ShareFileSystem
    if name == "read_links":
        from gridcloud.files.links import read_links

        return read_links
    if name in ("find_files", "open"):
        from gridcloud.files import opening

        return opening.find_files if name == "find_files" else opening.open_file
    raise AttributeError(f"module 'gridcloud.data' has no attribute {name!r}")
