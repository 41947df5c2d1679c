"""EC2 as moto keeps it: a server on loopback that speaks Amazon's protocol, and what the ground has to know of it."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import httpx

__all__ = ["CREDENTIALS", "REGION", "Moto", "moto_server"]

REGION = "eu-north-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "only-for-moto"}
# Without these moto starts whatever image and key pair are named.
STRICT = {"MOTO_ENABLE_AMI_VALIDATION": "true", "MOTO_ENABLE_KEYPAIR_VALIDATION": "true"}


class Moto:
    """The account behind the server, as its owner sees it with Amazon's own library."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._image: dict[str, Any] | None = None
        self.ec2: Any = boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def machines(self) -> list[dict[str, Any]]:
        """Return all instances that have not been terminated."""
        pages = self.ec2.get_paginator("describe_instances").paginate()
        found = [one for page in pages for entry in page["Reservations"] for one in entry["Instances"]]
        return [one for one in found if one["State"]["Name"] not in ("terminated", "shutting-down")]

    def look(self) -> Mapping[str, str]:
        """Return the user data of running instances by address, for a `Ground`."""
        found = {}
        for one in self.machines():
            if one["State"]["Name"] == "running" and (host := one.get("PublicIpAddress")):
                answer = self.ec2.describe_instance_attribute(
                    InstanceId=one["InstanceId"], Attribute="userData"
                )
                if text := answer["UserData"].get("Value"):
                    found[host] = base64.b64decode(text).decode()
        return found

    def image(self) -> dict[str, Any]:
        """Return an image to start machines from."""
        if self._image is None:
            self._image = self._find_image()
        return self._image

    def _find_image(self) -> dict[str, Any]:
        images = self.ec2.describe_images(Owners=["amazon"])["Images"]
        plain = [
            one for one in images if one.get("Platform") != "windows" and one["Architecture"] == "x86_64"
        ]
        return dict(min(plain, key=lambda one: one["ImageId"]))


@contextmanager
def moto_server() -> Iterator[Moto]:
    """Run a server of our own, with an empty account, on a free port of loopback, in a thread."""
    from moto.server import ThreadedMotoServer

    before = {name: os.environ.get(name) for name in (*STRICT, *CREDENTIALS)}
    os.environ.update(STRICT | CREDENTIALS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    moto = Moto(f"http://{host}:{port}")
    # moto keeps accounts for the whole process: what an earlier server's tests left would be found in this one.
    httpx.post(f"{moto.url}/moto-api/reset").raise_for_status()
    try:
        yield moto
    finally:
        moto.ec2.close()
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
