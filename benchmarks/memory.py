"""Memory of `gridcloud serve` with six providers and nothing to do, beside a Python that only imports its libraries.

    python -m benchmarks.memory [--seconds 10] [--json FILE]

The providers are of this computer, EC2, OpenStack, Oracle, libcloud and Kubernetes. Idle is resident memory so many
seconds after its start: goal under 150 MB. Then offers are asked for once, which each of the clouds refuses for want
of an account: from then on the providers' own libraries are loaded, and what they take is told, too. The peer imports
FastAPI, uvicorn, SQLAlchemy, asyncssh, aiohttp and pydantic.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import run

HERE = {"driver": "local"} | ({"allow_root": True} if os.geteuid() == 0 else {})

PROVIDERS: dict[str, dict[str, Any]] = {
    "here": HERE,
    "amazon": {
        "driver": "ec2",
        "image": "debian-12-*",
        "region": "eu-north-1",
        "allow_from": ["192.0.2.0/24"],
        "endpoint": "http://127.0.0.1:9",
    },
    "stack": {"driver": "openstack", "image": "debian-12", "cloud": "ours", "allow_from": ["192.0.2.0/24"]},
    "oracle": {
        "driver": "oci",
        "image": "Oracle-Linux-9*",
        "compartment": "ocid1.compartment.oc1..aaaa",
        "allow_from": ["192.0.2.0/24"],
    },
    "any": {"driver": "libcloud", "compute": "dummy", "image": "1"},
    "cluster": {"driver": "kubernetes", "image": "debian:12"},
}

PEER = "import aiohttp, asyncssh, fastapi, pydantic, sqlalchemy, uvicorn; input()"


def measure(seconds: int) -> dict[str, Any]:
    """Return megabytes of both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": PROVIDERS}))
        environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "OS_", "OCI_"))
            },
            "HOME": name,
            "GRIDCLOUD_CONFIG": str(folder / "config.yaml"),
            "GRIDCLOUD_DATA": str(folder / "data"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        gridcloud = [sys.executable, "-m", "gridcloud"]
        service = subprocess.Popen([*gridcloud, "serve"], env=environment, stderr=subprocess.PIPE)
        try:
            assert service.stderr is not None
            for line in service.stderr:
                if b"Serving" in line:
                    break
            time.sleep(seconds)
            idle = _megabytes(service.pid)
            asked = subprocess.run([*gridcloud, "offers"], env=environment, capture_output=True, check=False)
            if b"here" not in asked.stdout:
                raise SystemExit(f"no offers came: {asked.stderr.decode()}")
            time.sleep(seconds)
            after = _megabytes(service.pid)
        finally:
            service.terminate()
            service.communicate(timeout=60)
    return {
        "providers": len(PROVIDERS),
        "libraries_megabytes": _peer(),
        "idle_megabytes": idle,
        "asked_megabytes": after,
        "goals": {"idle_megabytes": "under 150"},
    }


def _peer() -> float:
    peer = subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE)
    try:
        time.sleep(5)
        return _megabytes(peer.pid)
    finally:
        peer.communicate(b"\n", timeout=60)


def _megabytes(pid: int) -> float:
    """Return a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


if __name__ == "__main__":
    run(__doc__, measure, seconds=10)
