"""Playbooks on machines, through the connection that is there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.configurers.driver import Configurer
from gridcloud.configurers.running import load
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import SSHAddress
from gridcloud.connections.ssh import SSHConnection, Timing
from gridcloud.drivers.configurers.ansible import AnsibleConfigurer, AnsibleSettings, render_inventory
from gridcloud.errors import ConfigurationFailed, InvalidSettings, Unreachable
from gridcloud.testing.configurers import HOSTILE, Cases, ConfigurerContract, facts
from gridcloud.testing.connections import FileCredentials
from tests.labs.machines import Lab, Machine

Play = Callable[..., Configurer]

# What the machine is told of itself comes into a command by its environment, as it should in any playbook.
WORKS = """
- hosts: all
  gather_facts: false
  tasks:
    - name: make
      ansible.builtin.shell: echo "hello $OWNER"; echo made >"$PLACE/made"
      environment: {OWNER: "{{ gridcloud_owner }}", PLACE: "{{ place }}"}
      register: made
    - name: tell
      ansible.builtin.debug: {msg: "{{ made.stdout }}"}
"""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Make a configurer of a playbook's text."""

    def make(text: str, **settings: Any) -> Configurer:
        name = f"{secrets.token_hex(4)}.yml"
        (tmp_path / name).write_text(text)
        configurer = load({"use": "ansible", "playbooks": [name], **settings}, tmp_path)
        assert isinstance(configurer, AnsibleConfigurer)
        return configurer

    return make


@pytest.fixture(autouse=True)
def private_folders(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder in which the private ones are made, to see that none stays."""
    tmp_path_factory.getbasetemp()  # pytest's own folders lie elsewhere
    folder = Path(tempfile.mkdtemp(prefix="gct-"))
    # Where the standard library keeps its choice: other tests of this computer use the usual folder meanwhile.
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def cases(play: Play, place: str) -> Cases:
    number = f"8{secrets.randbelow(10**8):08}"
    tasks = "- hosts: all\n  gather_facts: false\n  tasks:\n"
    return Cases(
        works=play(WORKS, host_variables={"place": place}),
        made="test -s made",
        says="hello",
        fails=play(
            tasks + "    - {name: cheese, ansible.builtin.shell: 'echo the disk is cheese >&2; exit 3'}\n"
        ),
        words="the disk is cheese",
        lasts=play(tasks + f"    - {{name: wait, ansible.builtin.command: sleep {number}}}\n"),
        begins="TASK [wait]",
        mark=f"sleep {number}",
    )


class TestHere(ConfigurerContract):
    """On this computer."""

    owners = ("; ".join(HOSTILE),)

    @pytest.fixture
    def connection(self, here: Connection) -> Connection:
        return here

    @pytest.fixture
    def cases(self, play: Play, place: Path) -> Cases:
        return cases(play, str(place))


@pytest.mark.needs_root
class TestThere(ConfigurerContract):
    """By SSH."""

    owners = ("; ".join(HOSTILE),)

    @pytest.fixture
    def connection(self, there: Connection) -> Connection:
        return there

    @pytest.fixture
    async def onlooker(self, there_too: Connection) -> Connection:
        return there_too

    @pytest.fixture
    def cases(self, play: Play) -> Cases:
        return cases(play, "/home/user")


def one(task: str) -> str:
    """Return a playbook of one task."""
    return f"- {{hosts: all, gather_facts: false, tasks: [{{{task}}}]}}"


async def tell(configurer: Configurer, connection: Connection, **variables: str) -> list[str]:
    told: list[str] = []
    await configurer.configure(connection, facts("a b", variables=variables), told.append)
    return told


ROOT = """
- hosts: lab
  become: true
  tasks:
    - {name: who, ansible.builtin.command: id -un, register: who, changed_when: false}
    - name: tell
      ansible.builtin.debug: {msg: "{{ who.stdout }} {{ ansible_facts.hostname }} {{ level }} {{ extra }}"}
    - name: copy
      ansible.builtin.copy: {content: "{{ 'x' * 100000 }}", dest: /etc/made}
    - {name: fetch, ansible.builtin.fetch: {src: /etc/made, dest: "{{ kept }}", flat: true}}
    - {name: skip, ansible.builtin.command: exit 1, when: false}
    - {name: try, ansible.builtin.command: /bin/false, ignore_errors: true}
    - {name: hush, ansible.builtin.command: "echo {{ extra }}", no_log: true}
    - name: many
      ansible.builtin.command: "true"
      loop: [a, b]
  handlers: []
"""


@pytest.mark.needs_root
async def test_root_files_groups_and_variables(
    there: Connection, play: Play, tmp_path: Path, private_folders: Path
) -> None:
    told = await tell(
        play(
            ROOT,
            groups=["lab"],
            group_variables={"lab": {"level": 3}},
            extra_variables={"extra": "word", "kept": str(tmp_path / "fetched")},
        ),
        there,
    )
    assert told[0] == "PLAY [lab]"
    assert any(line.startswith("TASK [tell] ok: root m") and line.endswith(" 3 word") for line in told), told
    for line in (
        "TASK [copy] changed",
        "TASK [skip] skipped",
        "TASK [try] failed, which the playbook ignores: non-zero return code",
        "TASK [many] (a) changed",
    ):
        assert line in told
    hushed = [line for line in told if line.startswith("TASK [hush] ")]
    assert hushed
    assert "word" not in "".join(hushed)
    assert (tmp_path / "fetched").read_text() == "x" * 100000
    assert not list(private_folders.iterdir())


@pytest.mark.needs_root
async def test_machine_that_vanishes_is_unreachable(
    ssh_lab: Lab, ssh_machine: Machine, there_address: SSHAddress, play: Play
) -> None:
    timing = Timing(keepalive=0.5, missed=2)
    connection = await SSHConnection.open(there_address, FileCredentials(ssh_lab.private_key), timing)
    told: list[str] = []

    def report(line: str) -> None:
        told.append(line)
        if line == "TASK [wait]":
            ssh_machine.kill()

    configurer = play(one("name: wait, ansible.builtin.command: sleep 600"))
    try:
        with pytest.raises(Unreachable):
            async with asyncio.timeout(100):
                await configurer.configure(connection, facts(), report)
    finally:
        await connection.close()
    assert any("unreachable" in line for line in told), told


async def test_requests_variables_are_never_templates(here: Connection, play: Play, place: Path) -> None:
    text = WORKS + "    - {name: colour, ansible.builtin.debug: {msg: 'is {{ colour }}'}}\n"
    trap = "{{ lookup('pipe', 'touch " + str(place / "trapped") + "') }}"
    told = await tell(play(text, host_variables={"place": str(place)}), here, colour=trap)
    assert f"TASK [colour] ok: is {trap}" in told
    assert not (place / "trapped").exists()


@pytest.mark.parametrize("name", ["ansible_connection", "Ansible_host", "gridcloud_door", "a b", "1a", ""])
def test_requests_variables_do_not_steer_ansible(name: str) -> None:
    settings = AnsibleSettings(playbooks=(Path("x.yml"),))
    with pytest.raises(InvalidSettings, match="cannot be a variable"):
        render_inventory(settings, facts(variables={name: "local"}), Path("/door"))


def test_inventory() -> None:
    settings = AnsibleSettings(
        playbooks=(Path("x.yml"),),
        groups=("gpu",),
        group_variables={"all": {"a": "{{ b }}"}, "gpu": {"driver": 535}},
        host_variables={"b": [1]},
    )
    told = facts('a"b\n', name="{{ x }}", variables={"colour": "red"})
    golden = Path(__file__).with_name("inventory.yml").read_text(encoding="utf-8")
    assert render_inventory(settings, told, Path("/run/door"), "/usr/bin/python3") == golden


async def test_service_environment_is_not_for_playbooks(
    here: Connection, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hush")
    text = one("ansible.builtin.debug: {msg: \"<{{ lookup('env', 'HUB_TOKEN') }}>\"}")
    assert any(line.endswith("ok: <>") for line in await tell(play(text), here))


async def test_no_log_is_respected(here: Connection, play: Play) -> None:
    text = one("name: t, no_log: true, ansible.builtin.shell: 'echo hush; exit 1'")
    with pytest.raises(ConfigurationFailed, match="hidden by no_log") as failure:
        await tell(play(text), here)
    assert "hush" not in str(failure.value)


async def test_play_for_nobody_is_an_error(here: Connection, play: Play) -> None:
    with pytest.raises(ConfigurationFailed, match="No play of the playbooks is for this machine"):
        await tell(play("- {hosts: web, tasks: []}"), here)


async def test_mistake_in_a_playbook_has_ansibles_words(here: Connection, play: Play) -> None:
    with pytest.raises(ConfigurationFailed, match="no_such_module"):
        await tell(play(one("no_such_module: {}")), here)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list of plays"),
        ("a: b", "no list of plays"),
        ("- tasks: []", "names no hosts"),
        ("- hosts: [", "cannot be read"),
    ],
)
async def test_playbook_is_looked_at_before_any_machine(play: Play, text: str, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        await play(text).check()


async def test_vault_and_other_tags_are_ansibles_business(play: Play) -> None:
    await play("- hosts: all\n  vars: {a: !vault 'x', b: !unsafe '{{'}\n").check()


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    for settings, words in (
        ({}, "playbooks: Field required"),
        ({"playbooks": ["a.yml"], "group_variables": {"web": {}}}, "not in that group"),
        ({"playbooks": ["a.yml"], "groups": ["a b"]}, "no name of a group"),
        ({"playbook": ["a.yml"]}, "did you mean 'playbooks'"),
    ):
        with pytest.raises(InvalidSettings, match=words):
            load({"use": "ansible", **settings}, tmp_path)


async def test_playbook_of_a_request_is_refused(play: Play) -> None:
    with pytest.raises(InvalidSettings, match="may not name playbook"):
        await load({"use": "ansible", "playbooks": ["/etc/hosts"]}, None).check()


async def test_cancelled_leaves_no_secret_behind(here: Connection, play: Play, private_folders: Path) -> None:
    begun = asyncio.Event()
    configurer = play(one("name: wait, ansible.builtin.command: sleep 600"))
    work = asyncio.create_task(configurer.configure(here, facts(), lambda line: begun.set()))
    await begun.wait()
    (folder,) = private_folders.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    assert not list(private_folders.iterdir())
