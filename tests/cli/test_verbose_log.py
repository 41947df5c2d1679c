"""What `serve --verbose` writes down: our words, and no user data that clouds' libraries were given."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.labs.moto import CREDENTIALS, REGION, moto_server

PROGRAM = """
import asyncio, logging, sys
from pathlib import Path
from gridcloud.cli.serve import log_here
from gridcloud.drivers.instances.ec2 import EC2Driver
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.instances.model import Request, Spec
from gridcloud.testing.instances import driver_context

log_here(True)
logging.getLogger("gridcloud.test").debug("our own words")
url, region, image, folder = sys.argv[1:]
entry = {"driver": "ec2", "region": region, "endpoint": url, "image": image, "shapes": ["t3.small"]}
entry |= {"price_list": False, "allow_from": ["192.0.2.0/24"]}

async def main():
    authority = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHs3uRsJz0o2TtBmqLnrxnOEJ6QBe9C7fQd9m3nq1k2S authority"
    context = driver_context(Path(folder), user_authority=authority)
    driver = EC2Driver(EC2Settings.model_validate(entry), context)
    request = Request(memory="1GiB")
    (offer, *_) = [one for one in await driver.offers(request) if one.available]
    await driver.create(Spec(id="t-1", owner="ada", request=request, offer=offer))
    await driver.close()

asyncio.run(main())
"""


def test_no_library_writes_down_user_data(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with moto_server() as moto:
        image = moto.image()["ImageId"]
        words = (moto.url, REGION, image, str(tmp_path_factory.mktemp("driver")))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(moto.machines()) == 1
    assert "our own words" in done.stderr
    for word in ("UserData", "PRIVATE KEY", "write_files", "I2Nsb3Vk"):  # the last: '#cloud' in base64
        assert word not in done.stderr
