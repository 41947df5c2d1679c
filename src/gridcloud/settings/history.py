"""What the configuration said before: each text with who changed it, when, and what for."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gridcloud.errors import GridcloudError, NotFound
from gridcloud.settings.edit import locked

__all__ = ["LARGEST", "History", "Revision", "digest_of"]

KEPT = 200
"""Texts that are kept."""

LARGEST = 512 << 10
"""Bytes of a text at most."""

WORDS = 200
"""Characters of who changed it and what for."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One text of the configuration. ``who`` is empty for a change of the file by hand."""

    number: int
    when: str
    """UTC, ISO 8601."""
    who: str
    what: str
    digest: str
    text: str


def digest_of(text: str) -> str:
    """Return what a text is told from others by: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class History:
    """The texts in a folder, a file each, all for its owner only. Several processes may write."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        """``kept``: how many at most; the oldest goes first."""
        self._folder = folder
        self._kept = kept

    def all(self) -> list[Revision]:
        """Return what is kept, the newest first; a file that cannot be read is left out."""
        found = (self._read(number) for number in sorted(self._numbers(), reverse=True))
        return [one for one in found if one is not None]

    def get(self, number: int) -> Revision:
        """Return one of them. Raises NotFound."""
        found = self._read(number)
        if found is None:
            raise NotFound(f"No configuration {number} is kept.", remedy="See: gridcloud config history")
        return found

    def last(self) -> Revision | None:
        """Return the newest."""
        return next(
            (one for one in map(self._read, sorted(self._numbers(), reverse=True)) if one is not None), None
        )

    def note(self, text: str, who: str, what: str) -> Revision:
        """Keep a text as the newest. Raises GridcloudError when that cannot be written."""
        with locked(self._path(0)):
            numbers = sorted(self._numbers())
            revision = Revision(
                number=numbers[-1] + 1 if numbers else 1,
                when=datetime.now(UTC).isoformat(timespec="seconds"),
                who=who[:WORDS],
                what=what[:WORDS],
                digest=digest_of(text),
                text=text,
            )
            self._write(revision)
            for number in numbers[: max(0, len(numbers) + 1 - self._kept)]:
                self._path(number).unlink(missing_ok=True)
        return revision

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.json"

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdecimal()]

    def _read(self, number: int) -> Revision | None:
        try:
            return Revision(**json.loads(self._path(number).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, revision: Revision) -> None:
        descriptor, partial = tempfile.mkstemp(dir=self._folder, prefix=".")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(revision), file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._path(revision.number))
        except BaseException as error:
            os.unlink(partial)
            if isinstance(error, OSError):
                raise GridcloudError(f"{self._folder} cannot be written: {error.strerror}.") from error
            raise
