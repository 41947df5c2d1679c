"""The code blocks of the documentation run, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from gridcloud.errors import GridcloudError
from gridcloud.settings.reading import parse_settings
from tests.docs.pages import Block, blocks, expected, pages, private_environment, steps
from tests.house.source import ROOT

# How a block may be marked, and what the mark promises. Blocks of other languages are pictures.
MARKS = {"python": {"run"}, "console": {"run"}, "yaml": {"config"}}

PYTHON_PAGES = [page for page in pages() if any(block.language == "python" for block in blocks(page))]
CONSOLE_PAGES = [
    page
    for page in pages()
    if any(block.language == "console" and "run" in block.words for block in blocks(page))
]

# Runs a page's Python as one program; `await` may stand at its top, as in a notebook.
RUN_PAGE = """
import ast, asyncio, inspect, sys
source = open(sys.argv[1], encoding="utf-8").read()
code = compile(source, sys.argv[2], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
ending = eval(code, {"__name__": "__main__"})
if inspect.iscoroutine(ending):
    asyncio.run(ending)
"""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home where the examples lie beside, as in a clone."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_blocks_are_marked_as_agreed() -> None:
    wrong = []
    for block in every_block():
        known = MARKS.get(block.language, set())
        if not block.language or set(block.words) - known:
            wrong.append(f"{block.place}: ```{block.language} {' '.join(block.words)}")
    assert not wrong, f"give the block a language, and of marks only {MARKS}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=named)
def test_python_runs(page: Path, home: Path) -> None:
    lines = [""] * len(page.read_text(encoding="utf-8").splitlines())
    for block in blocks(page):
        if block.language == "python":
            lines[block.line - 1 : block.line - 1 + len(block.lines)] = block.lines
    program = home / "page.py"
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::DeprecationWarning:__main__",
            "-c",
            RUN_PAGE,
            str(program),
            named(page),
        ],
        cwd=home,
        env=private_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", CONSOLE_PAGES, ids=named)
def test_console_says_what_is_stated(page: Path, home: Path) -> None:
    for block in blocks(page):
        if block.language != "console" or "run" not in block.words:
            continue
        for step in steps(block):
            run = subprocess.run(
                ["bash", "-c", step.command],
                cwd=home,
                env=private_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=110,
            )
            said = f"{block.place}\n$ {step.command}\n{run.stdout}[exit {run.returncode}]"
            assert run.returncode == step.code, said
            assert not step.output.strip() or expected(step.output).fullmatch(run.stdout.rstrip() + "\n"), (
                said
            )


@pytest.mark.skipif(find_spec("gridcloud.cli") is None, reason="there is no command line yet")
def test_commands_that_are_shown_exist(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a page shows but does not run has its verbs and its flags."""
    for name, value in {**private_environment(home), "COLUMNS": "300"}.items():
        monkeypatch.setenv(name, value)
    shown = [
        (block.place, words)
        for block in every_block()
        if block.language == "console" and "run" not in block.words
        for step in steps(block)
        for words in gridcloud_commands(step.command)
    ]
    told: dict[tuple[str, ...], str] = {}

    def explain(*verbs: str) -> str:
        if verbs not in told:
            told[verbs] = help_of(verbs)
        return told[verbs]

    for place, words in shown:
        verbs = tuple(words[:1]) if words and not words[0].startswith("-") else ()
        while (
            verbs
            and len(words) > len(verbs)
            and not words[len(verbs)].startswith("-")
            and re.search(r"\bCommands\b", explain(*verbs))
        ):
            verbs = tuple(words[: len(verbs) + 1])
        absent = {
            flag for flag in words if flag.startswith("--") and flag.partition("=")[0] not in explain(*verbs)
        }
        assert not absent, f"{place}: gridcloud {' '.join(verbs)} does not know {sorted(absent)}"


def test_configurations_are_valid() -> None:
    for block in every_block():
        if block.language == "yaml" and "config" in block.words:
            settings = parse_settings("\n".join(block.lines) + "\n", block.place, {})
            broken = [
                str(entry) for entry in settings.providers.values() if isinstance(entry, GridcloudError)
            ]
            assert not broken, f"{block.place}: {broken}"


def test_links_lead_somewhere() -> None:
    dead = []
    for page in pages():
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:|#", target):
                continue
            if not (page.parent / target.partition("#")[0]).exists():
                dead.append(f"{named(page)}: {target}")
    assert not dead, "\n".join(dead)


def test_every_page_is_reached_from_the_first() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / target).resolve() for target in targets]
    lost = {named(page) for page in pages() if page.is_relative_to(ROOT / "docs")} - {
        named(page) for page in reached
    }
    assert not lost, f"no link leads to {sorted(lost)}"


def test_stated_output_is_matched() -> None:
    assert expected("one\n...\nlast … words").fullmatch("one\ntwo\nthree\nlast few words\n")
    assert expected("one\n...\nlast").fullmatch("one\nlast\n")
    assert not expected("one\nlast").fullmatch("one\ntwo\nlast\n")
    block = Block(ROOT / "x.md", 1, "console", (), ("$ one \\", "> two", "told", "[exit 3]", "$ three"))
    first, second = steps(block)
    assert (first.command, first.output, first.code) == ("one \\\ntwo", "told", 3)
    assert (second.command, second.output, second.code) == ("three", "", 0)


def every_block() -> Iterator[Block]:
    for page in pages():
        yield from blocks(page)


def gridcloud_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each `gridcloud ...` in a command line, comments and what follows `--` left out."""
    for part in re.split(r"&&|\|\||[;|]", re.sub(r"\\\n", " ", line)):
        words = re.sub(r"(^|\s)#.*$", "", part).split()
        if words and words[0] == "gridcloud":
            yield words[1 : words.index("--")] if "--" in words else words[1:]


def help_of(verbs: tuple[str, ...]) -> str:
    """Return what `gridcloud VERBS --help` says; fail where there are no such verbs."""
    from gridcloud.cli import main  # it may not be there yet

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = main([*verbs, "--help"])
    assert code == 0, f"gridcloud {' '.join(verbs)}: {out.getvalue()}"
    return out.getvalue()
