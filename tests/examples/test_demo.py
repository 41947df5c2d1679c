"""`gridcloud demo` as a newcomer types it: on this computer, in a container, on a machine reached by SSH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.houses import containers, machines
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine


def demo(folder: Path, name: str, entry: dict[str, Any], *more: str) -> str:
    """Run it on one provider, and look at what it brings back; return its standard output."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"providers": {name: entry}}))
    environment = {
        **os.environ,
        "GRIDCLOUD_CONFIG": str(config),
        "GRIDCLOUD_DATA": str(folder / "data"),
    }
    done = subprocess.run(
        [str(Path(sys.executable).with_name("gridcloud")), "demo", "--on", name, *more],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert more or f"Provider: {name}" in done.stdout + done.stderr
    result = json.loads((folder / "gridcloud-demo" / "foam.json").read_text())
    assert result["accepted"]
    assert abs(result["found_pores"] - result["true_pores"]) <= 0.05 * result["true_pores"]
    notebook = json.loads((folder / "gridcloud-demo" / "foam.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in cells)
    assert all(cell["execution_count"] for cell in cells)
    assert (folder / "gridcloud-demo" / "foam.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path.home().glob("gridcloud-demo-*"))
    return done.stdout


@pytest.mark.timeout(300)
def test_on_this_computer(tmp_path: Path) -> None:
    document = json.loads(demo(tmp_path, "laptop", {"driver": "local"}, "--json"))
    assert document["provider"] == "laptop"
    assert document["found_pores"] > 0
    assert abs(document["found_pores"] - document["true_pores"]) <= 0.05 * document["true_pores"]


@pytest.mark.timeout(300)
def test_in_a_container(tmp_path: Path, podman_engine: Engine) -> None:
    demo(tmp_path, "engine", containers(podman_engine, SESSION_IMAGE))


@pytest.mark.timeout(300)
async def test_on_a_machine_reached_by_ssh(tmp_path: Path, ssh_machine: Machine) -> None:
    demo(tmp_path, "pool", machines(ssh_machine))
