"""Scripts on machines."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from gridcloud.configurers.driver import Configurer
from gridcloud.configurers.running import load
from gridcloud.connections.driver import Connection
from gridcloud.drivers.configurers.script import ScriptConfigurer
from gridcloud.errors import ConfigurationFailed, InvalidSettings
from gridcloud.testing.configurers import Cases, ConfigurerContract, facts


def script(folder: Path | None = None, **settings: Any) -> Configurer:
    configurer = load({"use": "script", **settings}, folder)
    assert isinstance(configurer, ScriptConfigurer)
    return configurer


def cases(root: bool) -> Cases:
    number = f"8{secrets.randbelow(10**8):08}"
    return Cases(
        works=script(text='echo "hello $GRIDCLOUD_OWNER"; echo made >made\n', root=root),
        made="test -s made",
        says="hello",
        fails=script(text="echo the disk is made of cheese >&2; exit 3\n", root=root),
        words="ended with 3: the disk is made of cheese",
        lasts=script(text=f"echo begun; sleep {number}; true\n", root=root),
        begins="begun",
        mark=f"sleep {number}",
    )


class TestHere(ConfigurerContract):
    """On this computer."""

    @pytest.fixture
    def connection(self, here: Connection) -> Connection:
        return here

    @pytest.fixture
    def cases(self) -> Cases:
        return cases(root=False)


@pytest.mark.needs_root
class TestThere(ConfigurerContract):
    """By SSH."""

    @pytest.fixture
    def connection(self, there: Connection) -> Connection:
        return there

    @pytest.fixture
    async def onlooker(self, there_too: Connection) -> Connection:
        return there_too

    @pytest.fixture
    def cases(self) -> Cases:
        return cases(root=False)


@pytest.mark.needs_root
class TestAsRoot(TestThere):
    """By SSH as an account that becomes root by sudo: its processes are not ours to signal."""

    @pytest.fixture
    def cases(self) -> Cases:
        return cases(root=True)


async def tell(configurer: Configurer, connection: Connection, **variables: str) -> list[str]:
    told: list[str] = []
    await configurer.configure(connection, facts("a b", variables=variables), told.append)
    return told


async def test_file_gets_its_arguments_and_variables(here: Connection, place: Path, tmp_path: Path) -> None:
    (tmp_path / "set up.sh").write_text('printf "%s|" "$@" "$COLOUR" "$GRIDCLOUD_VARIABLE_course"; pwd\n')
    configurer = script(
        tmp_path, script="set up.sh", arguments=["a b", "$(x)", ""], environment={"COLOUR": "'red'\n"}
    )
    assert await tell(configurer, here, course="phy;sics") == ["a b|$(x)||'red'", f"|phy;sics|{place}"]
    assert not list((place / ".gridcloud").iterdir()), "the script is taken away again"


@pytest.mark.needs_root
async def test_root_gets_them_too_and_no_argument_shows_them(there: Connection) -> None:
    text = 'id -u; printf "%s|%s\\n" "$TOKEN" "$GRIDCLOUD_OWNER"; ! cat /proc/[0-9]*/cmdline | grep hu[s]h'
    told = await tell(script(text=text, environment={"TOKEN": "hush 'x' \\0101 ü"}, root=True), there)
    assert told == ["0", "hush 'x' \\0101 ü|a b"]


async def test_interpreter_may_be_any(here: Connection) -> None:
    assert await tell(script(text="print(6 * 7)", interpreter=["python3", "-B"]), here) == ["42"]


async def test_missing_interpreter_is_named(here: Connection) -> None:
    with pytest.raises(ConfigurationFailed, match="not on that machine"):
        await tell(script(text="x", interpreter=["/no/such/program"]), here)


async def test_output_is_fit_to_be_kept(here: Connection) -> None:
    text = r"printf '10%%\r50%%\r100%%\n\n\033[31mred\033[0m \007bell\n\377\n'; head -c 100000 /dev/zero | tr '\0' y"
    told = await tell(script(text=text), here)
    assert told[:3] == ["100%", "red bell", "\ufffd"]
    assert set(told[3]) == {"y"}
    assert len(told[3]) == 4000


async def test_daemon_that_keeps_the_output_does_not_hold_it_up(here: Connection) -> None:
    assert await tell(script(text="sleep 60 & echo done\n"), here) == ["done"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "either `script`"),
        ({"script": "a", "text": "b"}, "either `script`"),
        ({"scrpt": "a"}, "did you mean 'script'"),
        ({"text": "a", "environment": {"A B": "c"}}, "no name of an environment variable"),
        ({"text": "a\0b"}, "NUL"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        script(**settings)


async def test_missing_file_is_told_before_any_machine(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="There is no script"):
        await script(tmp_path, script="absent.sh").check()


async def test_request_names_no_file_of_ours(here: Connection) -> None:
    configurer = script(None, script="/etc/passwd")
    with pytest.raises(InvalidSettings, match="may not name script"):
        await configurer.check()
    with pytest.raises(InvalidSettings, match="may not name script"):
        await tell(configurer, here)
