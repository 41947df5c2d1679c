"""What an executed notebook is kept in while it runs: outputs within bounds, a file that is whole at every
moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from gridcloud.errors import StorageFull
from gridcloud.jobs.kernels import Kernel

__all__ = ["Keeper", "OutputKeepingClient", "shorten"]

_format: Any = nbformat  # its functions have no types

STREAM = 1 << 20
"""Characters that are kept of what one cell prints in a row: half from its beginning, half from its end."""
DATA = 8 << 20
"""Characters of one picture, table or other output; a larger one is left out."""
PATIENCE = 60
"""Seconds that outputs may come after the word that the cell is done; nbclient's four leave some out."""
OUTPUTS = 1000
"""Outputs of one cell."""
ALL = 64 << 20
"""Characters of all outputs of a notebook; what comes later is left out."""
PAUSE = 0.5
"""Seconds between two times that the file is written because something was printed, at least."""
SHARE = 20
"""How many times longer than it takes to write the file it is left alone afterwards."""
RETURNED = re.compile(r"[^\n]*\r(?=[^\n])")
"""What a line had before it was written again from its beginning, as bars of progress do."""


class Keeper:
    """The file that a notebook is kept in: written beside it and put in its place, so that readers never see
    half of it.
    """

    def __init__(self, notebook: dict[str, Any], path: Path) -> None:
        self._notebook = notebook
        self._path = path
        # Named by what it is for: one that a kill left behind is written over by the next run.
        self._part = path.with_name(f".part-{hashlib.sha256(path.name.encode()).hexdigest()[:16]}")
        self._changed = asyncio.Event()
        self.problem: OSError | None = None
        """Why the file could not be written the last time."""

    def note_change(self) -> None:
        """Have the file written soon."""
        self._changed.set()

    async def keep(self) -> None:
        """Write the file whenever something has changed, until cancelled; what goes wrong is noted, and tried
        again.
        """
        while True:
            await self._changed.wait()
            begin = time.monotonic()
            try:
                self.write()
                self.problem = None
            except OSError as error:
                self.problem = error
            await asyncio.sleep(max(PAUSE, SHARE * (time.monotonic() - begin)))

    def write(self, *, lasting: bool = False) -> None:
        """Write the file now; ``lasting`` returns once the disk has it. Raises OSError; StorageFull when the
        disk is full.
        """
        self._changed.clear()
        try:
            text = json.dumps(self._notebook, indent=1, ensure_ascii=False) + "\n"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(
                os.open(self._part, flags, 0o666), "w", encoding="utf-8", errors="backslashreplace"
            ) as file:
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), self._path.stat().st_mode & 0o777)
                file.write(text)
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(self._part, self._path)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            if lasting and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"The disk that {self._path} is to be written to is full.") from error
            raise


class OutputKeepingClient(NotebookClient):
    """nbclient, given a kernel, that keeps outputs within bounds and says when there is something to
    write.
    """

    def __init__(self, notebook: Any, kernel: Kernel, keeper: Keeper) -> None:
        # On a busy computer what was printed may come long after the word that the cell is done.
        super().__init__(notebook, km=None, iopub_timeout=PATIENCE)
        self.kc = kernel.client
        self.kc.allow_stdin = False
        self._kernel = kernel
        self._keeper = keeper
        self._watch: asyncio.Task[Any] | None = None
        self._left: dict[int, tuple[str, int, str]] = {}
        """Of each stream that was cut, by its identity: its beginning, how much was left out, its end."""
        self._dropped: dict[int, int] = {}
        self._size = 0

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take a message of the kernel; what it shows is first brought to a size."""
        kind, content = msg["msg_type"], msg["content"]
        if kind in ("display_data", "execute_result", "update_display_data"):
            content["data"] = self._fit(content.get("data") or {})
        elif kind == "error":
            content["evalue"] = shorten(str(content.get("evalue", "")), DATA // 8)
            content["traceback"] = [
                shorten(str(one), DATA // 64) for one in content.get("traceback", [])[:100]
            ]
        elif kind == "clear_output":
            self._dropped.pop(cell_index, None)
        made = super().process_message(msg, cell, cell_index)
        self._keeper.note_change()
        return made

    def output(self, outs: Any, msg: dict[str, Any], display_id: Any, cell_index: int) -> Any:
        """Add an output to a cell: what it prints to what it printed, as long as there is room."""
        hooked = self.output_hook_stack[msg["parent_header"].get("msg_id")]
        if hooked or self.clear_before_next_output:
            return super().output(outs, msg, display_id, cell_index)
        if msg["msg_type"] == "stream":
            name, text = msg["content"]["name"], str(msg["content"]["text"])
            if outs and outs[-1].get("output_type") == "stream" and outs[-1].get("name") == name:
                self._append(outs[-1], text)
                return None
            msg["content"]["text"] = ""
        elif len(outs) >= OUTPUTS or self._size > ALL:
            self._note_dropped(outs, cell_index)
            return None
        if len(outs) > OUTPUTS:
            return None
        made = super().output(outs, msg, display_id, cell_index)
        if made is not None and msg["msg_type"] == "stream":
            self._append(made, text)
        return made

    def _append(self, output: Any, text: str) -> None:
        beginning, left, end = self._left.get(id(output), (output["text"], 0, ""))
        room = STREAM // 2 if self._size <= ALL else STREAM // 64
        if not left:
            whole = _written_over(beginning, text)
            self._size += len(whole) - len(beginning)
            if len(whole) <= 2 * room:
                output["text"] = whole
                return
            beginning, text = whole[:room], whole[room:]
        end = _written_over(end, text)
        left += max(0, len(end) - room)
        end = end[-room:]
        self._left[id(output)] = (beginning, left, end)
        output["text"] = f"{beginning}\n[… {left:,} characters left out …]\n{end}"

    def _fit(self, data: dict[str, Any]) -> dict[str, Any]:
        kept, out = {}, []
        for kind, value in data.items():
            size = len(value) if isinstance(value, str) else len(json.dumps(value, default=str))
            if size > DATA or (self._size > ALL and size > STREAM // 64):
                out.append(f"[{kind} of {size:,} characters left out]")
            else:
                kept[kind] = value
                self._size += size
        if out and "text/plain" not in kept:
            kept["text/plain"] = "\n".join(out)
        return kept

    def _note_dropped(self, outs: Any, cell_index: int) -> None:
        count = self._dropped[cell_index] = self._dropped.get(cell_index, 0) + 1
        note = f"[{count:,} more outputs left out]\n"
        if count == 1:
            outs.append(_format.v4.new_output("stream", name="stderr", text=note))
        else:
            outs[-1]["text"] = note

    async def _async_check_alive(self) -> None:
        from nbclient.exceptions import DeadKernelError

        if not await self._kernel.is_alive():
            raise DeadKernelError("The kernel died.")

    async def _async_poll_kernel_alive(self) -> None:
        self._watch = asyncio.current_task()
        await super()._async_poll_kernel_alive()

    async def stop_watching(self) -> None:
        """End what nbclient leaves running when a cell is broken off."""
        for task in (self._watch, self.task_poll_for_reply):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


def shorten(text: str, most: int) -> str:
    """Return a text, with its middle left out where it has more than so many characters."""
    if len(text) <= most:
        return text
    begin, end = most // 3, len(text) - 2 * most // 3
    return f"{text[:begin]}\n[… {end - begin:,} characters left out …]\n{text[end:]}"


def _written_over(before: str, text: str) -> str:
    """What stands there after a text is printed behind another: a line that returns to its beginning is
    replaced.
    """
    if "\r" not in text and not before.endswith("\r"):
        return before + text
    cut = before.rfind("\n") + 1
    return before[:cut] + RETURNED.sub("", before[cut:] + text)
