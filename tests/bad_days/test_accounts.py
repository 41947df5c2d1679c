"""People whose names are alike, or want to be something else, have accounts and folders of their own."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets.config import Config

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.settings import HubSettings
from gridcloud.spawner.login_ways import let_in
from tests.houses import end, link, machines, obtain, open_house
from tests.labs.machines import Machine

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


ALIKE = ("Zoe", "zoe", "zo\u00eb", "a b", "a_b", "../root", "root", "n" * 64, "n" * 65)


async def test_a_machine_has_a_home_for_each(tmp_path: Path, ssh_machine: Machine) -> None:
    async with open_house(tmp_path, {"far": machines(ssh_machine)}) as house:
        instances = [await obtain(house, owner, cpus=0.1) for owner in ALIKE]
        found = []
        for instance in instances:
            there = await link(house, instance)
            said = await connections.run(there, Command(("sh", "-c", "id -u; cd; pwd -P; stat -c %u:%a .")))
            user, home, mode = said.stdout.decode().split()
            assert user != "0"
            assert mode == f"{user}:700"
            found.append((user, home))
        assert len({user for user, _ in found}) == len({home for _, home in found}) == len(ALIKE)
        await end(house, *instances)
