"""The access to a cluster lies in one file for us alone, and nowhere else: no record, no event, no log has it."""

from __future__ import annotations

import base64
import logging
import os
import stat
from pathlib import Path

import pytest
import yaml

from gridcloud.clusters.model import ClusterRequest, State
from tests.clusters.test_runner import NOTHING, hurry, until
from tests.houses import open_house
from tests.labs.magnum import PASSWORD, magnum_server


@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_access_is_nowhere_but_in_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = os.umask(0)  # whatever it is: files are for us alone
    try:
        with magnum_server() as magnum:
            entry = {
                "driver": "magnum",
                "cloud": "lab",
                "clouds_file": str(magnum.clouds(tmp_path)),
                "template": "kubernetes-1.31",
            }
            (tmp_path / "data").mkdir(mode=0o700)
            (tmp_path / "data" / "clusters" / "cloud").mkdir(mode=0o755, parents=True)
            async with open_house(tmp_path, NOTHING, clusters={"cloud": entry}) as house:
                await hurry(house)
                made = await house.clusters.submit("ada", "lab", ClusterRequest())
                made = await until(house, made.id, State.READY)
                path = Path(made.kubeconfig)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
                key = yaml.safe_load(path.read_text())["users"][0]["user"]["client-key-data"]
                lines = base64.b64decode(key).decode().splitlines()[1:-1]
                secrets = [key[100:160], lines[3], PASSWORD, magnum.token]
                told = [event.message for event in await house.store.events()]
                for text in (*told, made.model_dump_json(), caplog.text):
                    assert not any(secret in text for secret in secrets)
            for file in (tmp_path / "data").rglob("*"):
                if file.is_file() and file != path:
                    content = file.read_bytes()
                    assert not any(secret.encode() in content for secret in secrets), file
            async with open_house(tmp_path, NOTHING, clusters={"cloud": entry}) as house:
                await hurry(house)
                await house.clusters.stop(made.id)
                await until(house, made.id, State.STOPPED)
            assert list(path.parent.iterdir()) == []
    finally:
        os.umask(before)
