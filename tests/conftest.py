"""What holds for every test: a home of its own, and nothing left behind."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.leftovers import Leftovers

# How long an example takes says more of a busy computer than of what is tried.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Before anything of gridcloud is imported: no test reads or writes the files of whoever runs it. The path is
# short because sockets live below it, and a socket's path has 107 bytes at most.
_HOME = Path(tempfile.mkdtemp(prefix="gct-"))
# How this computer reaches its package registries, and what was fetched from them, is not gridcloud's.
for _variable, _theirs in {
    "NPM_CONFIG_USERCONFIG": ".npmrc",
    "NPM_CONFIG_CACHE": ".npm",
    "PIP_CONFIG_FILE": ".config/pip/pip.conf",
}.items():
    if (_path := Path.home() / _theirs).exists():
        os.environ.setdefault(_variable, str(_path))
for _variable, _folder in {
    "HOME": ".",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_RUNTIME_DIR": "run",
}.items():
    (_HOME / _folder).mkdir(mode=0o700, exist_ok=True)
    os.environ[_variable] = str(_HOME / _folder)
for _variable in [name for name in os.environ if name.startswith(("GRIDCLOUD_", "JUPYTER"))]:
    if _variable != "GRIDCLOUD_SCREENSHOTS":  # the browser test's own
        del os.environ[_variable]

pytest_plugins = ["tests.labs.fixtures"]

USUAL = 2
"""Seconds that a test without a limit of its own counts for where files are sorted; a limit counts in full."""

_leftovers = pytest.StashKey[Leftovers]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_leftovers] = Leftovers()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_leftovers].forget()
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.hookimpl(trylast=True)  # after those that are not to be run are out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        _put_long_files_first(items)
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: run `sudo make test`")
    for item in items:
        if item.get_closest_marker("needs_root"):
            item.add_marker(skip)


def _put_long_files_first(items: list[pytest.Item]) -> None:
    """Sort files by how long they may take, so that no worker is left with one when the others have finished."""
    longest: Counter[Path] = Counter()
    for item in items:
        own = item.get_closest_marker("timeout")
        longest[item.path] += int(own.args[0]) if own else USUAL
    items.sort(key=lambda item: (-longest[item.path], item.path))


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    """An ordinary account of this computer, with a home; needs root."""
    name = f"gct{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    yield name
    subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> None:
    """Note what is there once the fixtures of wider scope are, which may keep what they hold."""
    request.config.stash[_leftovers].begin()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail the test that left a task, process, thread or open file behind, once all its fixtures are gone."""
    yield
    found = item.config.stash[_leftovers].end()
    if found and not item.get_closest_marker("keeps"):
        pytest.fail("left behind: " + "; ".join(found), pytrace=False)
