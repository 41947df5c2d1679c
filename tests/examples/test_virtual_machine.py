"""The example and a session on a virtual machine that is made for them and gone afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.houses import open_house
from tests.labs.virtual_machines import image_entry, missing_for_virtual_machines, prepare_image
from tests.sessions.visit import PLAN, fetch, over

from gridcloud.instances.model import Request

pytestmark = [pytest.mark.needs_root, pytest.mark.lab, pytest.mark.timeout(1800)]

FOAM = Path(__file__).parents[2] / "examples" / "foam" / "foam.py"


@pytest.fixture
def provider(tmp_path: Path) -> dict[str, Any]:
    """The entry of a provider of virtual machines on this computer."""
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    return {
        "driver": "qemu",
        "directory": str(tmp_path / "host"),
        "images": {"lab": image_entry(prepare_image())},
    }


def look_for_leftovers(folder: Path) -> None:
    """Nothing may be left: no process, no file, no port."""
    assert not [path for path in (folder / "host").rglob("*") if path.name != "lock"]
    told = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert str(folder / "host") not in told


def test_example_on_a_virtual_machine(tmp_path: Path, provider: dict[str, Any]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"providers": {"virtual": provider}}))
    shutil.copy(FOAM, tmp_path)
    environment = {**os.environ, "GRIDCLOUD_CONFIG": str(config), "GRIDCLOUD_DATA": str(tmp_path / "data")}
    command = [
        *(str(Path(sys.executable).with_name("gridcloud")), "run", "--cpus", "1", "--memory", "1GiB"),
        *("--put", "foam.py", "--get", "foam.json", "--", "python3", "foam.py", "--size", "80"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "foam.json").read_text())
    assert abs(result["found_pores"] - result["true_pores"]) <= 0.1 * result["true_pores"]
    look_for_leftovers(tmp_path)


async def test_session_on_a_virtual_machine(tmp_path: Path, provider: dict[str, Any]) -> None:
    async with open_house(tmp_path, {"virtual": provider}) as house:
        request = Request(cpus=2, memory=1024**3)
        session = await house.sessions.submit("ada", request, PLAN)
        async with asyncio.timeout(1200):
            session = await house.sessions.wait(session.id)
        assert await fetch(session) == b"here"
        await house.sessions.stop(session.id)
        await over(house, session, 120)
        assert await house.reconciliation.examine() == []
    look_for_leftovers(tmp_path)
