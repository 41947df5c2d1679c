"""Any URL as a file: a share's, a link as a browser has it, and whatever else fsspec knows."""

from __future__ import annotations

from typing import Any

from gridcloud.files.links import share_url

__all__ = ["find_files", "open_file"]


def open_file(url: str, mode: str = "rb", **options: Any) -> Any:
    """Return an open file. ``url``: ``share://NAME/path``, a link as it is in a browser, a path of this computer, or
    any that fsspec knows; ``options``: those of its file system, such as `ShareFileSystem`'s.

    What is written appears whole when the file is closed. Raises FileNotFoundError, PermissionError, OSError.
    """
    files, path = find_files(url, **options)
    return files.open(path, mode)


def find_files(url: str, **options: Any) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    import fsspec

    url, tls = share_url(url)
    if url.startswith("share://"):
        from gridcloud.files.filesystem import ShareFileSystem

        # Ours, whether or not it is installed where fsspec looks.
        files = ShareFileSystem(**options) if tls is None else ShareFileSystem(**{"tls": tls, **options})
        return files, files._strip_protocol(url)
    files, path = fsspec.core.url_to_fs(url, **options)
    return files, str(path)
