"""Files that jobs are given from where they were asked for: kept once each, by the SHA-256 of their content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from gridcloud.errors import InvalidRequest, NotFound, StorageFull

__all__ = ["Uploads"]


class Uploads:
    """A folder of contents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def take(self, digest: str, body: AsyncIterator[bytes], most: int) -> None:
        """Keep a content. Raises InvalidRequest where it is another than its digest says, or more than ``most`` bytes,
        StorageFull where the disk is full."""
        path = self._path(digest)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.folder / f".{secrets.token_hex(8)}"
        found, size = hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                async for chunk in body:
                    size += len(chunk)
                    if size > most:
                        raise InvalidRequest(f"The file has more than {most:,} bytes.")
                    found.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if found.hexdigest() != digest:
                raise InvalidRequest("The file is not the one that was announced: it changed on its way.")
            fresh.replace(path)
        except OSError as error:
            raise StorageFull(f"The file could not be kept: {error.strerror}.") from error
        finally:
            fresh.unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """Return the file with a content, which is kept the longer for it. Raises NotFound."""
        path = self._path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            raise NotFound(
                f"The file {digest:.12}… was not handed over.", remedy="Hand it over again."
            ) from None
        return path

    def forget(self, keep: Collection[str], before: float) -> int:
        """Remove what is older than a time (seconds since 1970) but for some; return how many. Touches the disk."""
        count = 0
        for path in self.folder.glob("[0-9a-f]*"):
            if path.name not in keep and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                count += 1
        return count

    def _path(self, digest: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise InvalidRequest(f"{digest!r:.80} is no SHA-256.")
        return self.folder / digest
