"""Configure a machine with Ansible playbooks, through the connection that gridcloud has to it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from gridcloud.configurers.commands import clean_line, run
from gridcloud.configurers.driver import Configurer, ConfigurerSettings, Report, local_path
from gridcloud.configurers.model import Facts
from gridcloud.connections.driver import Command, Connection
from gridcloud.drivers.configurers.ansible_door import Door
from gridcloud.drivers.configurers.ansible_story import Story
from gridcloud.errors import ConfigurationFailed, DriverUnavailable, InvalidSettings, Unreachable

__all__ = ["AnsibleConfigurer", "AnsibleSettings", "render_inventory"]

_PLUGINS = Path(__file__).with_name("ansible_plugins") / "connection"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENDING = 10.0
"""Seconds that Ansible gets to end its processes before they are killed."""

# What Ansible's processes get of our environment: not our secrets, which a playbook could look up.
_INHERITED = frozenset(
    {
        "PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "GRIDCLOUD_TEST_RUN",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    }
)  # fmt: skip


class AnsibleSettings(ConfigurerSettings):
    """Playbooks that run against every machine, which is the only host of their inventory."""

    playbooks: tuple[Path, ...] = Field(
        min_length=1, description="playbooks in order, relative to the configuration file"
    )
    roles: tuple[Path, ...] = Field(
        default=(), description="folders with roles, besides those beside a playbook"
    )
    collections: tuple[Path, ...] = Field(default=(), description="folders with installed collections")
    groups: tuple[str, ...] = Field(default=(), description="inventory groups that the machine is in")
    group_variables: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="variables of those groups, and of `all`"
    )
    host_variables: dict[str, Any] = Field(default_factory=dict, description="variables of the machine")
    extra_variables: dict[str, Any] = Field(
        default_factory=dict, description="variables that win over all others, as `ansible-playbook -e`"
    )
    become: bool = Field(
        default=False, description="run every task as root, as if each play said `become: true`"
    )
    tags: tuple[str, ...] = Field(default=(), description="run only tasks with one of these tags")
    vault_password_file: Path | None = Field(default=None, description="file that holds the vault's password")
    configuration: Path | None = Field(
        default=None, description="an ansible.cfg; none is looked for elsewhere"
    )

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        for group in (*self.groups, *self.group_variables):
            if not _NAME.fullmatch(group):
                raise ValueError(f"{group!r} is no name of a group")
        unknown = set(self.group_variables) - set(self.groups) - {"all"}
        if unknown:
            raise ValueError(
                f"there are variables for {sorted(unknown)}, but the machine is not in that group"
            )
        return self


class AnsibleConfigurer(Configurer):
    """Runs playbooks by ansible-runner in a process of its own."""

    Settings = AnsibleSettings
    settings: AnsibleSettings

    async def check(self) -> None:
        for module in ("ansible", "ansible_runner"):
            if importlib.util.find_spec(module) is None:
                raise DriverUnavailable(
                    f"The configurer 'ansible' needs the Python module {module!r}.",
                    remedy="Run: pip install 'gridcloud[ansible]'",
                )
        for path in self._playbooks():
            await asyncio.to_thread(_check_playbook, path)
        self._environment(Path())

    async def configure(self, connection: Connection, facts: Facts, report: Report) -> None:
        await self.check()
        folder = Path(tempfile.mkdtemp(prefix="gc-ansible-", dir=_short_folder()))
        try:
            async with Door(connection, folder / "door") as door:
                self._write(folder, facts, folder / "door", await _find_python(connection))
                story = Story(facts.instance_id, report)
                code = await _run_worker(folder, story)
                _judge(code, story, door)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _playbooks(self) -> list[Path]:
        return [local_path(self.folder, path, "playbook") for path in self.settings.playbooks]

    def _environment(self, folder: Path) -> dict[str, str]:
        settings = self.settings
        values = {
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "home" / "tmp"),
            "ANSIBLE_CONNECTION_PLUGINS": str(_PLUGINS),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_HOST_PATTERN_MISMATCH": "ignore",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        if settings.configuration is not None:
            values["ANSIBLE_CONFIG"] = str(
                local_path(self.folder, settings.configuration, "Ansible configuration")
            )
        if settings.roles:
            values["ANSIBLE_ROLES_PATH"] = self._search_path(settings.roles, "folder of roles")
        if settings.collections:
            values["ANSIBLE_COLLECTIONS_PATH"] = self._search_path(
                settings.collections, "folder of collections"
            )
        if settings.vault_password_file is not None:
            path = local_path(self.folder, settings.vault_password_file, "file of the vault's password")
            values["ANSIBLE_VAULT_PASSWORD_FILE"] = str(path)
        if settings.become:
            values["ANSIBLE_BECOME"] = "1"
        if settings.tags:
            values["ANSIBLE_RUN_TAGS"] = ",".join(settings.tags)
        return values

    def _search_path(self, paths: tuple[Path, ...], what: str) -> str:
        return os.pathsep.join(str(local_path(self.folder, path, what)) for path in paths)

    def _write(self, folder: Path, facts: Facts, door: Path, python: str) -> None:
        """Write what ansible-runner reads. The folder is private, and so is every file in it."""
        for name in ("inventory", "env", "project", "home"):
            (folder / name).mkdir(mode=0o700)
        order = {
            "playbooks": [str(path) for path in self._playbooks()],
            "environment": self._environment(folder),
        }
        files = {
            "inventory/hosts.yml": render_inventory(self.settings, facts, door, python),
            "env/extravars": json.dumps(self.settings.extra_variables, default=str),
            "ansible.cfg": "",
            "order.json": json.dumps(order),
        }
        for name, text in files.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text, encoding="utf-8")


class _Unsafe(str):
    """Text that Ansible must never take for a template: it would be evaluated on gridcloud's own computer."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"')
)


def render_inventory(settings: AnsibleSettings, facts: Facts, door: Path, python: str = "auto_silent") -> str:
    """Return the inventory: the machine as its only host, told of itself by ``gridcloud_*``.

    Variables that came with the request cannot be templates, nor change how Ansible works: raises InvalidSettings for
    one whose name is none, or begins with ``ansible_`` or ``gridcloud_``.
    """
    for name in facts.variables:
        if not _NAME.fullmatch(name) or name.lower().startswith(("ansible_", "gridcloud_")):
            raise InvalidSettings(
                f"{name[:80]!r} cannot be a variable of a machine.",
                remedy="Use letters, digits and underscores; names that begin with ansible_ or gridcloud_ are taken.",
            )
    told = {f"gridcloud_{name}": value for name, value in facts.model_dump(exclude={"variables"}).items()}
    variables = {
        **{name: _Unsafe(value) for name, value in facts.variables.items()},
        "ansible_python_interpreter": python,
        **settings.host_variables,
        **{name: _Unsafe(value) if isinstance(value, str) else value for name, value in told.items()},
        "ansible_connection": "gridcloud",
        "gridcloud_door": str(door),
    }
    host = {facts.instance_id: variables}
    document = {
        "all": {
            "hosts": host,
            "vars": dict(settings.group_variables.get("all", {})),
            "children": {
                group: {
                    "hosts": {facts.instance_id: {}},
                    "vars": dict(settings.group_variables.get(group, {})),
                }
                for group in settings.groups
            },
        }
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads a playbook's shape; what Ansible's own tags hold is its business."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _check_playbook(path: Path) -> None:
    try:
        plays = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"The playbook {str(path)!r} cannot be read: {error}") from None
    wanted = ("hosts", "import_playbook", "ansible.builtin.import_playbook")
    if not isinstance(plays, list) or not plays:
        raise InvalidSettings(f"The playbook {str(path)!r} is no list of plays.")
    for number, play in enumerate(plays, 1):
        if not isinstance(play, dict) or not any(name in play for name in wanted):
            raise InvalidSettings(
                f"Play {number} of the playbook {str(path)!r} names no hosts.",
                remedy="Add `hosts: all` to it.",
            )


async def _find_python(connection: Connection) -> str:
    """Return the machine's own ``python3``. Ansible's search takes names such as python3.13 first, which may be
    empty shims; without any Python it still has its say, for a playbook may install one."""
    said: list[str] = []
    ask = Command(words=("python3", "-c", "import sys; print(sys.executable)"))
    outcome = await run(connection, ask, said.append)
    return said[-1] if outcome.code == 0 and said and said[-1].startswith("/") else "auto_silent"


async def _run_worker(folder: Path, story: Story) -> int:
    """Run Ansible to its end, telling its events; nothing of it is left whichever way this ends."""
    environment = {name: value for name, value in os.environ.items() if name in _INHERITED}
    # ansible-playbook lies beside our Python, which need not be on the path of whoever started us.
    programs = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment |= {"HOME": str(folder / "home"), "PATH": os.pathsep.join(programs)}
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gridcloud.drivers.configurers.ansible_worker",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=folder,
        start_new_session=True,
        limit=1 << 22,
    )
    complaints = asyncio.create_task(_lines(worker.stderr, story.complain))
    try:
        await _lines(worker.stdout, story.tell)
        code = await worker.wait()
        await complaints
        return code
    finally:
        await asyncio.shield(_end(worker))
        complaints.cancel()
        await asyncio.gather(complaints, return_exceptions=True)


async def _lines(stream: asyncio.StreamReader | None, tell: Callable[[str], None]) -> None:
    if stream is None:
        return
    async for line in stream:
        tell(line.decode("utf-8", "replace"))


async def _end(worker: asyncio.subprocess.Process) -> None:
    """Hang up: the worker then ends its playbook. Kill it when it does not."""
    if worker.stdin is not None:
        worker.stdin.close()
    try:
        await asyncio.wait_for(worker.wait(), _ENDING)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()


def _judge(code: int, story: Story, door: Door) -> None:
    if door.lost is not None and (story.unreachable or story.failure):
        raise door.lost
    if story.unreachable:
        raise Unreachable(f"Ansible could not reach the machine: {story.unreachable}")
    if story.failure:
        raise ConfigurationFailed(story.failure)
    if code != 0 or not story.succeeded:
        words = story.last_words or f"its process ended with {code}."
        raise ConfigurationFailed(f"Ansible failed before its tasks: {clean_line(words)}")
    if not story.reached:
        raise ConfigurationFailed(
            "No play of the playbooks is for this machine.",
            remedy="Use `hosts: all`, or name the plays' group in `groups`.",
        )


def _short_folder() -> str | None:
    """Return where to make the private folder: a socket's path has 107 bytes at most."""
    return None if len(tempfile.gettempdir()) < 70 else "/tmp"  # noqa: S108 - a private folder is made in it
