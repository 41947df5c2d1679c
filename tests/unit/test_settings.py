"""The configuration: strict, told at its line, read again when it changes."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gridcloud import plugins
from gridcloud.errors import Conflict, DriverUnavailable, InvalidSettings, NotFound, Untrusted
from gridcloud.settings import (
    BudgetSettings,
    ProviderSettings,
    Settings,
    SettingsFile,
    add_provider,
    config_path,
    data_folder,
    parse_settings,
    reference,
    remove_provider,
    socket_path,
)
from gridcloud.settings.reading import sections
from gridcloud.settings.reference import NAMED
from tests.unit.distributions import write_distribution


def _parse(text: str, **environment: str) -> Settings:
    return parse_settings(text, "config.yaml", environment)


def _faults(text: str, **environment: str) -> list[str]:
    with pytest.raises(InvalidSettings) as refusal:
        _parse(text, **environment)
    lines = refusal.value.message.splitlines()
    assert len(lines) == len(refusal.value.details["faults"])
    return lines


def test_nothing_configured_is_this_computer() -> None:
    settings = _parse("")
    entry = settings.providers["local"]
    assert isinstance(entry, ProviderSettings)
    assert entry.driver == "local"
    assert (settings.hub.bind, settings.hub.port, settings.limits.warning, settings.service.host) == (
        "127.0.0.1",
        8000,
        600,
        "",
    )
    assert _parse("providers:\nhub:\n").providers.keys() == {"local"}


def test_values_are_read_as_people_write_them() -> None:
    settings = _parse(
        "defaults: {memory: 4GiB, time: 1d12h, cpus: 0.5}\n"
        "providers:\n  lab: {driver: fake, price: 0.25, location: Oslo}\n"
        "session: {command: [jupyter, lab]}\n"
    )
    assert settings.defaults.memory == 4 * 1024**3
    assert settings.defaults.time == 36 * 3600
    assert settings.session.command == ("jupyter", "lab")
    entry = settings.providers["lab"]
    assert isinstance(entry, ProviderSettings)
    assert (entry.price, entry.location) == (Decimal("0.25"), "Oslo")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hub:\n  prot: 1\n", "config.yaml:2:3: hub.prot: unknown key; did you mean 'port'?"),
        ("currncy: EUR\n", "config.yaml:1:1: currncy: unknown key; did you mean 'currency'?"),
        ("hub:\n  zzz: 1\n", "config.yaml:2:3: hub.zzz: unknown key; known are: bind, port, "),
        (
            "providers:\n  lab:\n    driver: fake\n    locaton: x\n",
            "config.yaml:4:5: providers.lab.locaton: unknown key; did you mean 'location'?",
        ),
        ("hub: {port: many}\n", "config.yaml:1:7: hub.port: input should be a valid integer"),
        ("hub: {port: 70000}\n", "found 70000 (port that the hub's proxy listens on; 0: any free one)"),
        (
            "limits: {time: soon}\n",
            "limits.time: 'soon' is not a time; write for example 90s, 30m, 2h or 1d12h",
        ),
        ("currency: euro\n", "config.yaml:1:1: currency: string should match"),
        ("hub: 3\n", "config.yaml:1:1: hub: "),
        ("providers: [a]\n", "config.yaml:1:1: providers: expected names with an entry each"),
        ("providers:\n  lab:\n", "config.yaml:2:3: providers.lab: expected keys with values"),
        (
            "providers:\n  lab: {}\n",
            "config.yaml:2:3: providers.lab.driver: say which driver serves it: one of ",
        ),
        ("providers:\n  ../x: {driver: local}\n", "config.yaml:2:3: providers.../x: a provider's name is"),
        ("hub: {}\nhub: {}\n", "config.yaml:2:1: hub: given twice; the first is at config.yaml:1:1"),
        ("hub:\n  port: 1\n  port: 2\n", "config.yaml:3:3: hub.port: given twice"),
        ("- a\n", "config.yaml:1:1: expected keys with values"),
        ("hub: [\n", "config.yaml:2:1: this is no YAML"),
        ("hub: &a {x: *a}\n", "config.yaml: this is no YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n<<: *b\n", "config.yaml:1:1: a: unknown key"),
        (
            "currency: !!python/name:os.system\n",
            "currency: the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("hub: !!python/object:os.X {}\n", "config.yaml:1:1: hub: the tag"),
        ("? [a, b]\n: 1\n", "config.yaml: a key has to be a word"),
        ("store: {url: 2026-99-99}\n", "store.url: this value cannot be read"),
        (
            "budgets:\n  - {mony: 5, money: 3}\n",
            "config.yaml:2:6: budgets.all.mony: unknown key; did you mean 'money'?",
        ),
        ("budgets:\n  a: {money: -1}\n", "config.yaml:2:7: budgets.a.money: input should be greater"),
        ("budgets:\n  a: {user: b}\n", "config.yaml:2:3: budgets.a: a budget needs money, gpu_hours or both"),
        ("budgets: {a: {money: 1, period: fortnight}}\n", "budgets.a.period: 'fortnight' is no period"),
        ("budgets: {a: {money: 1, period: 2026-02-02..2026-02-01}}\n", "ends before it begins"),
        ("budgets: {a: {money: 1, time_zone: Mars/A}}\n", "'Mars/A' is no time zone such as Europe/Oslo"),
        ("budgets: {a: {money: 1, project: b}}\n", "a project's budget names who may charge it"),
        ("budgets: {a: {money: 1, user: '*'}}\n", "'*' is for projects"),
        ("budgets: [{money: 1, user: a}, {money: 2, user: a}]\n", "there are two budgets 'a'"),
        ("budgets: [{money: 1, user: A b}]\n", "budgets.0: give it a name"),
        ("budgets: [3]\n", "budgets.0: expected keys with values"),
    ],
)
def test_a_fault_is_told_at_its_place(text: str, said: str) -> None:
    assert any(line.startswith(said) or said in line for line in _faults(text)), _faults(text)


def test_every_fault_is_told_at_once() -> None:
    """Settings, promise A."""
    faults = _faults(
        "hub: {prot: 1}\ncurrency: 3\nproviders:\n  A: {driver: local}\n  b: {driver: fake, x: 1}\n"
    )
    assert [line.split(": ")[1] for line in faults] == [
        "hub.prot",
        "currency",
        "providers.A",
        "providers.b.x",
    ]


def test_aliases_that_grow_without_end_are_refused() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert "too large" in _faults(text)[0]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drivers of another distribution, each with settings of a kind of its own."""
    text = """
from gridcloud.errors import InvalidSettings
from gridcloud.settings import ProviderSettings
from pydantic import Field, model_validator

class Secretive:
    class Settings(ProviderSettings):
        password: int = Field(default=0, description="a secret")

class Failing:
    class Settings(ProviderSettings):
        @model_validator(mode="after")
        def check(self):
            raise RuntimeError("no")

class Refusing:
    class Settings(ProviderSettings):
        @model_validator(mode="after")
        def check(self):
            raise InvalidSettings("no")
"""
    points = {name.lower(): f"probe_settings:{name}" for name in ("Secretive", "Failing", "Refusing")}
    folder = write_distribution(tmp_path, "probe", "instances", points, {"probe_settings": text})
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("probe_settings", None)


def test_a_secret_is_not_repeated(probe: None) -> None:
    (fault,) = _faults("providers:\n  lab: {driver: secretive, password: hunter2}\n")
    assert "providers.lab.password" in fault
    assert "hunter2" not in fault


def test_a_driver_that_cannot_be_loaded_spoils_its_provider_only() -> None:
    """Settings, promise B."""
    settings = _parse("providers:\n  far: {driver: locl, any: thing}\n  here: {driver: local}\n")
    broken = settings.providers["far"]
    assert isinstance(broken, DriverUnavailable)
    assert broken.message.startswith("config.yaml:2:3: the provider 'far' cannot be used")
    assert broken.remedy.startswith("Did you mean 'local'")
    assert isinstance(settings.providers["here"], ProviderSettings)


def test_a_driver_that_fails_on_its_settings_is_named(probe: None) -> None:
    broken = _parse("providers:\n  lab: {driver: failing}\n").providers["lab"]
    assert isinstance(broken, DriverUnavailable)
    assert "fails on its settings: RuntimeError: no" in broken.message
    assert _faults("providers:\n  lab: {driver: refusing}\n") == ["config.yaml:2:3: providers.lab: no"]


def test_the_environment_goes_before_the_file() -> None:
    settings = _parse(
        "hub: {port: 1, bind: 127.0.0.2}\n",
        GRIDCLOUD_HUB__PORT="9000",
        GRIDCLOUD_HUB__ADMIN_USERS="ann, bob",
        GRIDCLOUD_CURRENCY="NOK",
        GRIDCLOUD_DATA="/anything",
        OTHER__THING="x",
    )
    assert (settings.hub.port, settings.hub.bind, settings.currency) == (9000, "127.0.0.2", "NOK")
    assert settings.hub.admin_users == ("ann", "bob")
    assert _faults("", GRIDCLOUD_HUB__PRT="1") == [
        "GRIDCLOUD_HUB__PRT: no setting has this name; did you mean 'GRIDCLOUD_HUB__PORT'?"
    ]
    (fault,) = _faults("", GRIDCLOUD_HUB__PORT="many")
    assert fault.startswith("GRIDCLOUD_HUB__PORT: hub.port: input should be a valid integer")


def test_every_setting_has_its_help_and_stands_in_the_reference() -> None:
    """Settings, promise E."""
    text = reference()
    models: list[type[BaseModel]] = [Settings, BudgetSettings, *sections().values()]
    models += [plugins.load("instances", "local").Settings, plugins.load("instances", "fake").Settings]
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no help"
            told = f"`{name}`" in text or f"`hub.{name}`" in text
            assert told or name in {*sections(), *NAMED}, f"{model.__name__}.{name}"
    assert "GRIDCLOUD_LIMITS__WARNING" in text
    assert "### `driver: local`" in text


def _current(file: SettingsFile) -> tuple[int, int]:
    settings, problems = file.current()
    return settings.hub.port, len(problems)


def test_the_file_is_read_again_when_it_changes_and_a_bad_one_leaves_the_last_good(tmp_path: Path) -> None:
    """Settings, promise C."""
    path = tmp_path / "config.yaml"
    file = SettingsFile(path, {})
    assert _current(file) == (8000, 0)
    path.write_text("hub: {port: 8001}\n")
    first, _ = file.current()
    assert first.hub.port == 8001
    assert file.current()[0] is first
    path.write_text("hub: {prot: 8002}\n")
    assert _current(file) == (8001, 1)
    assert _current(file) == (8001, 1)
    assert "hub.prot" in str(file.current()[1][0])
    path.unlink()
    assert _current(file) == (8001, 1)
    assert "is not there" in str(file.fault)
    path.write_text("hub: {port: 8003}\nproviders: {far: {driver: no-such}}\n")
    assert _current(file) == (8003, 1)
    assert file.fault is None


def test_a_file_that_was_never_good_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(InvalidSettings, match="is not there"):
        SettingsFile(path, {}, required=True).current()
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InvalidSettings, match="cannot be read"):
        SettingsFile(path, {}).current()
    path.write_text("x: 1\n")
    file = SettingsFile(path, {})
    for _ in range(2):
        with pytest.raises(InvalidSettings, match="x: unknown key"):
            file.current()


WRITTEN = """\
# what we have
currency: NOK  # the crown

providers:
    # the room downstairs
    lab:
        driver: fake  # for now
        location: |
            cellar
            left

    # the closet
    closet: {driver: local}  # small

hub:
    port: 8001
"""


def test_a_provider_comes_and_goes_and_no_other_line_changes(tmp_path: Path) -> None:
    """Settings, promise D."""
    path = tmp_path / "config.yaml"
    path.write_text(WRITTEN)
    add_provider(path, "far", {"driver": "fake", "location": "Oslo: 'the' #1"})
    settings, _ = SettingsFile(path, {}).current()
    assert list(settings.providers) == ["lab", "closet", "far"]
    entry = settings.providers["far"]
    assert isinstance(entry, ProviderSettings)
    assert entry.location == "Oslo: 'the' #1"
    assert [
        line for line in path.read_text().splitlines() if line in WRITTEN.splitlines()
    ] == WRITTEN.splitlines()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    remove_provider(path, "far")
    assert path.read_text() == WRITTEN
    remove_provider(path, "lab")
    left = path.read_text()
    assert "# the closet" in left
    assert "cellar" not in left
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize(
    "start", [None, "", "currency: NOK", "providers:\n", "# only this\n", "providers: # none\nhub: {}\n"]
)
def test_the_first_provider_may_be_added_to_any_file(tmp_path: Path, start: str | None) -> None:
    path = tmp_path / "new" / "config.yaml"
    if start is not None:
        path.parent.mkdir()
        path.write_text(start)
    add_provider(path, "lab", {"driver": "fake"})  # what counted while there was none is written too
    assert list(SettingsFile(path, {}).current()[0].providers) == ["local", "lab"]
    remove_provider(path, "local")
    assert list(SettingsFile(path, {}).current()[0].providers) == ["lab"]
    remove_provider(path, "lab")
    assert list(SettingsFile(path, {}).current()[0].providers) == ["local"]


def test_this_computer_may_be_added_with_settings_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    add_provider(path, "local", {"driver": "local", "cpus": 2})
    (entry,) = SettingsFile(path, {}).current()[0].providers.values()
    assert isinstance(entry, ProviderSettings)
    assert entry.model_dump()["cpus"] == 2


@pytest.mark.parametrize(
    ("name", "entry", "error"),
    [
        ("closet", {"driver": "fake"}, Conflict),
        ("Upper", {"driver": "fake"}, InvalidSettings),
        ("x", {"driver": "fake", "nonsense": 1}, InvalidSettings),
        ("x", {}, InvalidSettings),
        ("x", {"driver": "no-such"}, DriverUnavailable),
        ("x\n  y", {"driver": "fake"}, InvalidSettings),
    ],
)
def test_what_would_not_be_valid_is_not_written(
    tmp_path: Path, name: str, entry: dict[str, Any], error: type[Exception]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(WRITTEN)
    with pytest.raises(error):
        add_provider(path, name, entry)
    assert path.read_text() == WRITTEN
    with pytest.raises(NotFound, match="it has: lab, closet"):
        remove_provider(path, "x")


def test_a_file_written_in_one_line_is_left_to_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("providers: {a: {driver: fake}, b: {driver: fake}}\n")
    for change in (lambda: add_provider(path, "c", {"driver": "fake"}), lambda: remove_provider(path, "a")):
        with pytest.raises(InvalidSettings, match=r"editor|cannot"):
            change()
    assert path.read_text() == "providers: {a: {driver: fake}, b: {driver: fake}}\n"


def test_providers_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    names = [f"p{number}" for number in range(12)]
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(lambda name: add_provider(path, name, {"driver": "fake"}), names))
        assert set(SettingsFile(path, {}).current()[0].providers) >= set(names)
        list(threads.map(lambda name: remove_provider(path, name), names))
    assert not set(SettingsFile(path, {}).current()[0].providers) & set(names)


def test_paths_come_from_the_environment_or_the_user(tmp_path: Path) -> None:
    assert config_path({"GRIDCLOUD_CONFIG": str(tmp_path / "c.yaml")}) == tmp_path / "c.yaml"
    assert config_path({}).parts[-2:] == ("gridcloud", "config.yaml")
    folder = data_folder({"GRIDCLOUD_DATA": str(tmp_path / "d")})
    assert folder == tmp_path / "d"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_data_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o1777)
    with pytest.raises(Untrusted, match="not ours alone"):
        data_folder({"GRIDCLOUD_DATA": str(tmp_path / "d")})


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A folder whose path is as short as that of a user's runtime folder."""
    with tempfile.TemporaryDirectory(prefix="gct-") as folder:
        yield Path(folder)


def test_a_socket_can_be_made_however_deep_the_data_lies(tmp_path: Path, runtime: Path) -> None:
    deep = tmp_path / ("x" * 100)
    paths = {
        socket_path(runtime / "d", {}),
        socket_path(deep, {}),
        socket_path(deep, {"XDG_RUNTIME_DIR": "/nowhere"}),
    }
    paths.add(socket_path(deep, {"XDG_RUNTIME_DIR": str(runtime)}))
    for path in paths:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        path.unlink()
    assert len(paths) == 3


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path, runtime: Path) -> None:
    (runtime / "gridcloud").symlink_to(tmp_path)
    with pytest.raises(Untrusted, match="is not ours"):
        socket_path(Path("/" + "x" * 120), {"XDG_RUNTIME_DIR": str(runtime)})
