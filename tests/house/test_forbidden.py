"""What appears nowhere in the tree. Each pattern is written so that it does not match itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.source import ROOT, tracked_files

EVERYWHERE = {
    r"known[_]hosts\s*=\s*None": "a host key that nobody checks",
    r"StrictHostKeyChecking[\s=]+['\"]?(no|off|accept-new)\b": "a host key that nobody checks",
    r"Auto[A]ddPolicy|Warning[P]olicy\(": "a host key that nobody checks",
    r"\bTO[D]O\b|\bFIX[M]E\b|\bX[X]X\b": "work left undone: do it, or say it in an issue",
    r"(?<![\w.])/(w[o]rk|f[a]rm)/": "a path of one machine",
    r"/tmp/g[c]\b|\.libr[a]ry\b": "a path of one machine",
    r"(?<!\w)(pypi\.[o]rg|pythonhos[t]ed|(deb|cloud)\.deb[i]an\.org|npmjs\.[a-z]|proxy\.gol[a]ng)": "a registry's host",
}

IN_CODE = {
    r"\bassert [T]rue\b": "a test that tests nothing",
    r"#\s*type:\s*ignore\s*$": "name the error that is ignored",
    r"except (Base)?Exception:\s*pass\b": "an error that nobody sees",
    r"\bshell=[T]rue": "a shell text made of somebody's input",
    r"ssl\.CERT_N[O]NE|verify=F[a]lse|check_hostname\s*=\s*F[a]lse": "a certificate that nobody checks",
}


def texts(*suffixes: str) -> list[tuple[Path, str]]:
    """Return the files with one of the suffixes, or all that hold text."""
    found = []
    for path in tracked_files():
        if suffixes and path.suffix not in suffixes:
            continue
        try:
            found.append((path, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue  # a picture, an array
    return found


@pytest.mark.parametrize("pattern", EVERYWHERE)
def test_nowhere_in_the_tree(pattern: str) -> None:
    _refuse(pattern, EVERYWHERE[pattern], texts())


@pytest.mark.parametrize("pattern", IN_CODE)
def test_nowhere_in_code(pattern: str) -> None:
    _refuse(pattern, IN_CODE[pattern], texts(".py"))


def test_patching_has_its_reason() -> None:
    """A server that speaks the protocol beats a patched method; where one is patched, the line before says why."""
    patched = re.compile(r"\bmock\.[p]atch|\bmonkey[p]atch\.setattr\(")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, text in texts(".py")
        for lines in [text.splitlines()]
        for number, line in enumerate(lines)
        if patched.search(line) and not any("#" in near for near in lines[max(0, number - 2) : number + 1])
    ]
    assert not wrong, "say why in a comment on or above the line:\n" + "\n".join(wrong)


def _refuse(pattern: str, reason: str, files: list[tuple[Path, str]]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group(0).strip()}"
        for path, text in files
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]
    assert not found, f"{reason}:\n" + "\n".join(found)
