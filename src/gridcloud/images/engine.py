"""Podman, asked by its command line to build images: here, without a service and, as a rule, without root."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gridcloud.errors import ConfigurationFailed, DriverUnavailable, InvalidRequest, NotFound

__all__ = ["Podman", "Tell", "pinned_base"]

Tell = Callable[[str], None]
"""Called with each line that a build says."""

LAST_LINES = 15


class Podman:
    """The images of one store of Podman: this user's own, or that in a folder."""

    def __init__(
        self, program: str = "podman", options: Sequence[str] = (), store: Path | None = None
    ) -> None:
        """``options`` go before every verb; ``store`` is a folder to keep images in, for who does not want the own."""
        self._words = [program, *options]
        if store is not None:
            self._words += ["--root", str(store / "storage"), "--runroot", str(store / "run")]

    async def find(self, reference: str) -> str:
        """Return the ID of an image, 64 hexadecimal digits; empty where there is none. Raises ConfigurationFailed."""
        code, _ = await self._ask("image", "exists", "--", reference)
        if code == 1:
            return ""
        code, said = await self._ask("image", "inspect", "--format", "{{.Id}}", "--", reference)
        if code != 0:
            raise ConfigurationFailed(f"Podman cannot say whether there is an image {reference!r}.")
        return said.strip()

    async def labels(self, reference: str) -> dict[str, str]:
        """Return the labels of an image. Raises NotFound."""
        code, said = await self._ask("image", "inspect", "--format", "{{json .Labels}}", "--", reference)
        if code != 0:
            raise NotFound(f"There is no image {reference!r} in Podman's store.")
        return {str(name): str(value) for name, value in (json.loads(said) or {}).items()}

    async def build(
        self,
        folder: Path,
        arguments: Mapping[str, str],
        tags: Sequence[str],
        tell: Tell,
        *,
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
        volumes: Mapping[Path, str] | None = None,
    ) -> str:
        """Build what a folder's Containerfile says; return the image's ID. Raises ConfigurationFailed.

        Steps run in a changed root (chroot) and with this computer's network, for fetching Debian's packages; folders
        in ``volumes`` can be written to from within. All steps make one layer: each costs a copy of what it changed.
        """
        words = ["build", "--isolation=chroot", "--network=host", "--format=oci", "--layers=false"]
        words += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        words += [f"--label={name}={value}" for name, value in (labels or {}).items()]
        words += [f"--annotation={name}={value}" for name, value in (labels or {}).items()]
        words += [f"--volume={path}:{place}" for path, place in (volumes or {}).items()]
        words += [f"--timestamp={epoch}"] if epoch is not None else []
        words += [f"--tag={tag}" for tag in tags]
        last = await self.run([*words, "--file", str(folder / "Containerfile"), str(folder)], tell)
        if not re.fullmatch(r"[0-9a-f]{64}", last):
            raise ConfigurationFailed(f"Podman ended without the image's ID; it said last: {last!r:.200}")
        return last

    async def run(self, words: Sequence[str], tell: Tell) -> str:
        """Run one verb, telling its lines; return the last of standard output. Raises ConfigurationFailed."""
        process = await self._start(words, asyncio.subprocess.STDOUT)
        lines: list[str] = []
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            async for raw in process.stdout:
                if line := raw.decode(errors="replace").rstrip():
                    lines = [*lines[-LAST_LINES + 1 :], line]
                    tell(line)
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
        if code != 0:
            raise ConfigurationFailed(f"Podman could not {words[0]} what was asked:\n" + "\n".join(lines))
        return lines[-1] if lines else ""

    async def _ask(self, *words: str) -> tuple[int, str]:
        process = await self._start(words, asyncio.subprocess.DEVNULL)
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode(errors="replace")

    async def _start(self, words: Sequence[str], stderr: int) -> asyncio.subprocess.Process:
        if shutil.which(self._words[0]) is None:
            raise DriverUnavailable(
                f"There is no {self._words[0]!r} on this computer, which builds images.",
                remedy="Install it: apt-get install podman",
            )
        return await asyncio.create_subprocess_exec(
            *self._words,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=1 << 20,
        )


def pinned_base(reference: str) -> str:
    """Return a reference that is an ID or has a digest. Raises InvalidRequest for a name that may mean another one
    tomorrow."""
    if re.fullmatch(r"(sha256:)?[0-9a-f]{64}", reference):
        return reference.removeprefix("sha256:")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}", reference):
        return reference
    raise InvalidRequest(
        f"{reference[:100]!r} may be another image tomorrow.",
        remedy="Name the base by its digest (NAME@sha256:…) or ID: podman image inspect --format '{{.Id}}' NAME",
    )
