"""50 machines asked of EC2 (moto) by gridcloud, beside a plain boto3 script that asks for the same machines.

    python -m benchmarks.clouds [--machines 50] [--rounds 3] [--json FILE]

Both discover image, subnets and security group once, launch with the same words (user data, tags, token), look every
half second until all run, and terminate. moto runs in a process of its own; machines of moto boot nothing, so that
gridcloud's connection to each is one to a folder here. Goal: at most 10 % more than the script, and 5 ms for each
machine. The best round of each counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import yaml

from benchmarks.report import run
from gridcloud import connections
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address, LocalAddress
from gridcloud.instances.first_boot import FirstBoot, HostKeys, render_user_data
from gridcloud.instances.model import FINAL, Request
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile

REGION = "eu-north-1"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "only-for-moto"}
SERVE = """
import logging, sys, threading
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


class NearHouse(House):
    """A house whose machines are all a folder of this computer."""

    async def _connect(self, address: Address) -> Connection:
        return await connections.open(LocalAddress(directory=str(self.scratch)), self.credentials)


def measure(machines: int, rounds: int) -> dict[str, Any]:
    """Return seconds of both, and what gridcloud takes more."""
    os.environ.update(KEYS)
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            assert server.stdout is not None
            host, port = server.stdout.readline().decode().split()
            return asyncio.run(_measure(f"http://{host}:{port}", machines, rounds))
        finally:
            server.terminate()


async def _measure(url: str, machines: int, rounds: int) -> dict[str, Any]:
    client: Any = boto3.client("ec2", region_name=REGION, endpoint_url=url)
    images = client.describe_images(Owners=["amazon"])["Images"]
    image = min(one["ImageId"] for one in images if one["Architecture"] == "x86_64")
    entry = {
        "driver": "ec2",
        "region": REGION,
        "endpoint": url,
        "image": image,
        "shapes": ["t3.small"],
        "prices": {"*": 0.02},
        "price_list": False,
        "allow_from": ["192.0.2.0/24"],
    }
    script, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": {"cloud": entry}}))
        house = await NearHouse.open(SettingsFile(folder / "config.yaml", {}), folder)
        try:
            for number in range(rounds + 1):
                begin = time.perf_counter()
                await asyncio.to_thread(_plain, url, image, machines, folder, number)
                middle = time.perf_counter()
                await asyncio.gather(*(_one(house) for _ in range(machines)))
                end = time.perf_counter()
                if number:  # the first round fills moto's own caches
                    script.append(middle - begin)
                    ours.append(end - middle)
        finally:
            await house.close()
    left = [
        one
        for page in client.get_paginator("describe_instances").paginate()
        for entry in page["Reservations"]
        for one in entry["Instances"]
        if one["State"]["Name"] not in ("terminated", "shutting-down")
    ]
    client.close()
    if left:
        raise SystemExit(f"{len(left)} machines are left")
    allowed = min(script) * 1.1 + machines * 0.005
    return {
        "machines": machines,
        "script_seconds": min(script),
        "gridcloud_seconds": min(ours),
        "overhead_percent": (min(ours) / min(script) - 1) * 100,
        "share_of_allowed": min(ours) / allowed,
        "goals": {"share_of_allowed": "under 1"},
    }


async def _one(house: House) -> None:
    instance = await house.instances.submit("ada", Request(cpus=1, memory=1 << 30))
    await house.instances.wait(instance.id)
    await house.instances.stop(instance.id)
    async for now in house.instances.records.follow(instance.id):
        if now.state in FINAL:
            return


def _plain(url: str, image: str, machines: int, folder: Path, number: int) -> None:
    client: Any = boto3.client("ec2", region_name=REGION, endpoint_url=url)
    client.describe_images(ImageIds=[image])
    subnets = client.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    group = client.create_security_group(
        GroupName=f"plain-{number}", Description="plain", VpcId=subnets[0]["VpcId"]
    )["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    client.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    keys = HostKeys(folder / "plain")

    def launch(index: int) -> str:
        name = f"plain-{number}-{index}"
        tags = [{"Key": "Name", "Value": name}, {"Key": "owner", "Value": "script"}]
        answer = client.run_instances(
            ImageId=image,
            InstanceType="t3.small",
            MinCount=1,
            MaxCount=1,
            ClientToken=hashlib.sha256(name.encode()).hexdigest(),
            UserData=render_user_data(FirstBoot(name, keys.key(name), "ssh-ed25519 A")),
            TagSpecifications=[
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
            ],
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            NetworkInterfaces=[
                {
                    "DeviceIndex": 0,
                    "SubnetId": subnets[0]["SubnetId"],
                    "Groups": [group],
                    "AssociatePublicIpAddress": True,
                    "DeleteOnTermination": True,
                }
            ],
        )
        return str(answer["Instances"][0]["InstanceId"])

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(launch, range(machines)))
        while True:
            found = [
                one
                for page in client.get_paginator("describe_instances").paginate(InstanceIds=ids)
                for entry in page["Reservations"]
                for one in entry["Instances"]
            ]
            if all(one["State"]["Name"] == "running" for one in found):
                break
            time.sleep(0.5)
        list(pool.map(lambda one: client.terminate_instances(InstanceIds=[one]), ids))
    client.delete_security_group(GroupId=group)
    client.close()


if __name__ == "__main__":
    run(__doc__, measure, machines=50, rounds=3)
