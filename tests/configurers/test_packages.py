"""Packages on machines: an index of our own on this computer's disk, and apt on a machine of the lab."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gridcloud import connections
from gridcloud.configurers.driver import Configurer
from gridcloud.configurers.running import check_all, load, run_all
from gridcloud.connections.driver import Command, Connection
from gridcloud.drivers.configurers.packages import PackagesConfigurer
from gridcloud.errors import ConfigurationFailed, DriverUnavailable, InvalidSettings
from gridcloud.testing.configurers import HOSTILE, Cases, ConfigurerContract, facts

BACKEND = """
import subprocess
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    subprocess.run(["sleep", "{number}"], check=True)
"""


def packages(folder: Path | None = None, **settings: Any) -> Configurer:
    configurer = load({"use": "packages", **settings}, folder)
    assert isinstance(configurer, PackagesConfigurer)
    return configurer


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip takes for an index, with the package toy-foam in it."""
    folder = tmp_path_factory.mktemp("index")
    write_wheel(folder, "toy_foam", "1.0", {"toy_foam.py": "print('foam')\n"})
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},sha256={digest(text)},{len(text)}" for path, text in files.items()]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{about}/RECORD", "\n".join([*lines, f"{about}/RECORD,,", ""]))


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def write_requirements(folder: Path, index: Path, *lines: str) -> str:
    name = f"{secrets.token_hex(4)}.txt"
    (folder / name).write_text("\n".join(["--no-index", f"--find-links {index}", *lines, ""]))
    return name


class TestHere(ConfigurerContract):
    """Python packages on this computer."""

    owners = ("; ".join(HOSTILE),)

    @pytest.fixture
    def connection(self, here: Connection) -> Connection:
        return here

    @pytest.fixture
    def cases(self, index: Path, tmp_path: Path) -> Cases:
        number = f"8{secrets.randbelow(10**8):08}"
        slow = tmp_path / "slow"
        slow.mkdir()
        (slow / "backend.py").write_text(BACKEND.format(number=number))
        (slow / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "slow"\nversion = "1"\n'
        )
        return Cases(
            works=packages(tmp_path, requirements=write_requirements(tmp_path, index, "toy-foam==1.0")),
            made='test -s .gridcloud/path && test "$(PATH=$(cat .gridcloud/path) python -m toy_foam)" = foam',
            says="environment",
            fails=packages(tmp_path, requirements=write_requirements(tmp_path, index, "toy-cheese")),
            words="No matching distribution found for toy-cheese",
            lasts=packages(tmp_path, requirements=write_requirements(tmp_path, index, str(slow))),
            begins="Preparing metadata",
            mark=number,
        )


async def tell(configurer: Configurer, connection: Connection) -> list[str]:
    told: list[str] = []
    await configurer.configure(connection, facts(), told.append)
    return told


async def test_two_instances_build_an_environment_once(here: Connection, index: Path, tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text(f"--no-index\n--find-links={index}\n-c limits.txt\n")
    (tmp_path / "limits.txt").write_text("toy-foam<2\n")
    (tmp_path / "all.txt").write_text("-r base.txt\ntoy-foam\n")
    told = await asyncio.gather(*(tell(packages(tmp_path, requirements="all.txt"), here) for _ in range(2)))
    built = [lines for lines in told if any("building the environment" in line for line in lines)]
    assert len(built) == 1, told


@pytest.mark.parametrize(
    "requirement",
    [
        "--index-url https://elsewhere.example",
        "-r /etc/passwd",
        "idna; rm",
        "idna && touch x",
        "./folder",
        "idna\n--index-url=https://elsewhere.example",
        "x @ file:///etc/passwd",
        "x @ http://elsewhere.example/x.whl",
        "",
        "idna\u202e",
    ],
)
def test_only_requirements_stand_in_a_list(requirement: str) -> None:
    with pytest.raises(InvalidSettings, match=r"requirement such as|https only|nobody sees"):
        packages(requirements=["numpy>=1.26", requirement])


@pytest.mark.parametrize("name", ["-o=APT::x", "a;b", "sl-", "../x.deb", "/x.deb", "SL", "a b", "", "sl=1;2"])
def test_only_names_stand_for_debian_packages(name: str) -> None:
    with pytest.raises(InvalidSettings, match="no name of a Debian package"):
        packages(apt=[name])


def test_requirements_that_are_fine() -> None:
    packages(requirements=["numpy>=1.26,<3", "a[b]; python_version<'4'", "c @ git+https://host.example/c@v1"])
    packages(apt=["g++", "libc6:amd64", "python3.11=3.11.2-6+deb12u1"])


async def test_wrong_files_are_told_before_any_machine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r absent.txt\n")
    (tmp_path / "b.yml").write_text("name: x\n")
    (tmp_path / "c.yml").write_text("a: [\n")
    for settings, words in (
        ({"requirements": "absent.txt"}, "There is no file of requirements"),
        ({"requirements": "a.txt"}, "There is no file of requirements"),
        ({"environment": "b.yml"}, "no list `dependencies`"),
        ({"environment": "c.yml"}, "cannot be read"),
    ):
        with pytest.raises(InvalidSettings, match=words):
            await packages(tmp_path, **settings).check()
    with pytest.raises(InvalidSettings, match="may not name file of requirements"):
        await packages(None, requirements="/etc/passwd").check()
    with pytest.raises(InvalidSettings, match="name packages"):
        packages()


async def test_conda_is_missing(here: Connection, tmp_path: Path) -> None:
    told = load({"use": "script", "text": "command -v micromamba mamba conda"}, None)
    try:
        await tell(told, here)
    except ConfigurationFailed:
        with pytest.raises(ConfigurationFailed, match="needs micromamba, mamba or conda on the machine"):
            await tell(packages(environment={"dependencies": ["numpy"]}), here)
    else:
        pytest.skip("this computer has conda")


async def test_missing_python_is_named(here: Connection) -> None:
    with pytest.raises(ConfigurationFailed, match="no '/no/such/python' on the machine"):
        await tell(packages(session=True, python="/no/such/python"), here)


async def test_session_needs_nothing_where_its_programs_are(here: Connection, place: Path) -> None:
    told = await tell(packages(session=True, python=sys.executable), here)
    assert told == ["the programs of a session are there already"]


async def test_an_overlay_is_put_on_the_packages_of_the_session(
    here: Connection, place: Path, index: Path, tmp_path: Path
) -> None:
    wanted = write_requirements(tmp_path, index, "toy-foam==1.0")
    configurer = packages(tmp_path, requirements=wanted, overlay=True, python=sys.executable)
    await tell(configurer, here)
    (programs,) = (place / ".gridcloud" / "path").read_text().split()
    (shown,) = (place / ".gridcloud" / "jupyter").read_text().split()
    spec = json.loads((Path(shown) / "kernels" / "python3" / "kernel.json").read_text())
    assert spec["argv"][0] == f"{programs}/python"
    code = "import toy_foam, ipykernel, jupyterhub; print(toy_foam.__file__, ipykernel.__file__)"
    done = await connections.run(here, Command((spec["argv"][0], "-I", "-c", code)))
    foam, kernel = done.stdout.decode().split()[-2:]
    assert foam.startswith(str(Path(programs).parent))
    assert not kernel.startswith(str(Path(programs).parent))
    assert any("which was built before" in line for line in await tell(configurer, here))
    with pytest.raises(InvalidSettings, match="an overlay is of `requirements` alone"):
        packages(requirements=["idna"], overlay=True, session=True)


async def test_stopped_build_is_begun_again(here: Connection, index: Path, tmp_path: Path) -> None:
    configurer = packages(tmp_path, requirements=write_requirements(tmp_path, index, "toy-foam"))
    begun = asyncio.Event()
    work = asyncio.create_task(configurer.configure(here, facts(), lambda line: begun.set()))
    await begun.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert any("building the environment" in line for line in await tell(configurer, here))


@pytest.mark.needs_root
async def test_debian_packages_by_sudo(there: Connection) -> None:
    assert await tell(packages(apt=["sudo", "python3"]), there) == ["the Debian packages are there already"]
    with pytest.raises(ConfigurationFailed, match="Unable to locate package no-such-package"):
        await tell(packages(apt=["no-such-package"]), there)


async def test_entries_run_in_order(here: Connection, tmp_path: Path) -> None:
    told: list[str] = []
    entries = [{"use": "script", "text": "echo one"}, {"use": "script", "text": "echo two"}]
    await check_all(entries, tmp_path)
    await run_all(entries, tmp_path, here, facts(), told.append)
    assert told == ["configuring with script (1 of 2)", "one", "configuring with script (2 of 2)", "two"]


async def test_entries_without_a_configurer_are_told(here: Connection) -> None:
    with pytest.raises(InvalidSettings, match="names no configurer"):
        await check_all([{"text": "x"}], None)
    with pytest.raises(DriverUnavailable, match="Did you mean 'ansible'"):
        await check_all([{"use": "ansibel"}], None)


def test_build_program_is_read_by_an_old_python() -> None:
    """It runs on the machine's Python, which may be older than ours."""
    import ast

    import gridcloud.drivers.configurers.packages_build as program

    assert program.__file__
    ast.parse(Path(program.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
    assert subprocess.run([sys.executable, program.__file__], input=b"{", capture_output=True).returncode == 1
