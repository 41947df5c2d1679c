"""Two accounts whose names differ in case are two people."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets.config import Config

from gridcloud.settings import HubSettings
from gridcloud.spawner.login_ways import let_in

pytestmark = pytest.mark.needs_root


@pytest.fixture
def accounts() -> Iterator[tuple[str, str]]:
    """Two accounts of this computer, as in ada and Ada."""
    lower = f"gcz{secrets.token_hex(3)}"
    names = (lower, lower.capitalize())
    try:
        for name in names:
            for word in ("--badname", "--badnames", "--force-badname"):  # by the age of useradd
                done = subprocess.run(["useradd", "--no-create-home", word, name], stderr=subprocess.PIPE)
                if done.returncode == 0:
                    break
            else:
                pytest.skip(f"NOT TESTED: this useradd makes no account {name}: {done.stderr.decode()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["userdel", name], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("way", ["pam", "jupyterhub.auth.PAMAuthenticator"])
def test_who_logs_in_as_one_is_not_the_other(accounts: tuple[str, str], way: str, tmp_path: Path) -> None:
    configuration = Config()
    let_in(configuration, HubSettings(authenticator=way, allow_all=True), tmp_path)
    authenticator = configuration.JupyterHub.authenticator_class(config=configuration)
    assert [authenticator.normalize_username(name) for name in accounts] == list(accounts)
    assert authenticator.normalize_username("No-Account-Of-That-Name") == "no-account-of-that-name"
    assert authenticator.normalize_username("a\0b") == "a\0b"
