"""A machine needs little to dial in: nothing of the hub, of the service's doors or of its store."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from gridcloud import connections
from gridcloud.agents.packing import pack
from gridcloud.connections.driver import Command
from tests.agents.machines import until
from tests.houses import ended, link, obtain
from tests.services import Service, open_service
from tests.unit.distributions import write_distribution

ROOT = Path(__file__).parents[2]

LIGHT = '''
import sys

class Refuse:
    """Whatever is not needed is not there."""

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = top == "gridcloud" or top.startswith("_")
        if not ours and top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

allowed = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Refuse())
'''
PACKED = """
sys.path[:] = [path for path in sys.path if not path.endswith("/src")]
sys.path.insert(0, "gridcloud.pyz")
import gridcloud
assert "gridcloud.pyz/" in gridcloud.__file__
from gridcloud.cli import main
main()
"""
CONTAINERS = """
import gridcloud.agents.bootstrap, gridcloud.connections.container, gridcloud.drivers.instances.container
"""


def named_by(extra: str) -> set[str]:
    """Return the packages that an extra names."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {re.split(r"[^A-Za-z0-9_.-]", one)[0].lower() for one in extras[extra]}


def allowed(*more: str) -> set[str]:
    """Return the modules of what the extra ``agent`` names, and of what that needs itself."""
    named = named_by("agent") | set(more)
    # What those need in turn.
    named |= {
        "aiohappyeyeballs",
        "aiosignal",
        "attrs",
        "frozenlist",
        "idna",
        "multidict",
        "propcache",
        "yarl",
    }
    named |= {"annotated-types", "pydantic-core", "typing-extensions", "typing-inspection"}
    named |= {
        "cffi",
        "pycparser",
        "click",
        "shellingham",
        "markdown-it-py",
        "mdurl",
        "pygments",
        "annotated-doc",
    }
    return {
        module
        for module, owners in packages_distributions().items()
        if named & {owner.lower().replace("_", "-") for owner in owners}
    }


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    # Where the driver was installed with gridcloud itself, that one is taken.
    point = {"agent": "gridcloud.drivers.instances.agent:AgentDriver"}
    monkeypatch.syspath_prepend(str(write_distribution(tmp_path, "agent-driver", "instances", point, {})))
    async with open_service(tmp_path, {"machines": {"driver": "agent"}}) as opened:
        yield opened


def test_containers_need_what_speaks_to_their_engine_and_no_more() -> None:
    docker = named_by("docker") | {"requests", "urllib3", "certifi", "charset-normalizer"}
    words = [sys.executable, "-c", LIGHT + CONTAINERS, ",".join(sorted(allowed(*docker)))]
    done = subprocess.run(words, capture_output=True, env={"PYTHONPATH": str(ROOT / "src")}, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_the_guide_installs_what_is_needed() -> None:
    guide = (ROOT / "docs" / "guide" / "agents.md").read_text()
    found = re.search(r"pip install (.+?)\n\$", guide.replace("\\\n> ", " "), re.DOTALL)
    assert found is not None
    words = {word.lower() for word in found[1].split()}
    assert words == named_by("agent")


async def test_a_machine_without_the_hubs_packages_joins_and_serves(service: Service, tmp_path: Path) -> None:
    modules = allowed()
    assert not modules & {"jupyterhub", "fastapi", "sqlalchemy", "alembic", "jupyterlab", "uvicorn", "jinja2"}
    pack(tmp_path / "gridcloud.pyz")
    assert (tmp_path / "gridcloud.pyz").stat().st_size < 2 << 20
    _, token = await service.house.agents.invite("lab-pc", "admin")
    words = ["agent", "join", service.url, "--ca", str(service.certificate), "--as-root", "--token-file", "-"]
    log = tmp_path / "machine.log"
    program = LIGHT + PACKED, ",".join(sorted(modules)), *words, "--state", f"{tmp_path}/state"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            *program,
            stdin=asyncio.subprocess.PIPE,
            stdout=said,
            stderr=said,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
    try:
        assert process.stdin is not None
        process.stdin.write(token.reveal().encode() + b"\n")
        process.stdin.close()
        board = service.house.switchboard
        await until(lambda: "lab-pc" in board.present() or process.returncode is not None, log)
        assert process.returncode is None, log.read_text()
        instance = await obtain(service.house)
        connection = await link(service.house, instance)
        done = await connections.run(connection, Command(("echo", "hello")))
        assert done.stdout == b"hello\n"
        (tmp_path / "file").write_text("x")
        await connection.put(tmp_path / "file", "file")
        await service.house.instances.stop(instance.id)
        await ended(service.house, instance.id)
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)
