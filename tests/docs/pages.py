"""The pages of the documentation and the code blocks in them."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.house.source import ROOT, tracked_files

__all__ = ["Block", "Step", "blocks", "expected", "pages", "private_environment", "steps"]


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words after it, its lines, and where the first of them stands (from 1)."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Step:
    """One command of a console block, the output stated for it, and its exit code."""

    command: str
    output: str
    code: int


def pages() -> list[Path]:
    """Return every page somebody reads to use or change gridcloud."""
    return [path for path in tracked_files() if path.suffix == ".md" and "changelog.d" not in path.parts]


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """Return the fenced blocks of a page in order."""
    found = []
    fence = ""
    words: list[str] = []
    lines: list[str] = []
    start = 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        opening = re.match(r"^(```+|~~~+)(.*)$", line)
        if not fence and opening:
            fence, words, lines, start = opening[1], opening[2].split(), [], number + 1
        elif fence and line.strip() == fence:
            found.append(Block(page, start, words[0] if words else "", tuple(words[1:]), tuple(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    return tuple(found)


def steps(block: Block) -> list[Step]:
    """Return the commands of a console block: `$ ` begins one, `> ` carries it on, the rest is its output."""
    found: list[Step] = []
    command: list[str] = []
    output: list[str] = []

    def finish() -> None:
        if command:
            ending = re.fullmatch(r"\[exit (\d+)\]", output[-1]) if output else None
            told = output[:-1] if ending else output
            found.append(Step("\n".join(command), "\n".join(told), int(ending[1]) if ending else 0))

    for line in block.lines:
        if line.startswith("$ "):
            finish()
            command, output = [line[2:]], []
        elif line.startswith("> ") and command and not output:
            command.append(line[2:])
        else:
            output.append(line)
    finish()
    return found


def expected(output: str) -> re.Pattern[str]:
    """Return what matches the stated output: a line `...` is any lines, `…` anything within a line."""
    pattern = ""
    for line in output.rstrip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ ]*\n"
    return re.compile(pattern + r"\s*")


def private_environment(home: Path) -> dict[str, str]:
    """Return the environment of somebody who has just installed gridcloud: a home of their own, nothing set."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
        # How packages are fetched here, and the mark by which what a page leaves running is found.
        **{
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "NPM_CONFIG_")) or name == "GRIDCLOUD_TEST_RUN"
        },
    }
