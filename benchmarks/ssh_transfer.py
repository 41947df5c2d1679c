"""256 MiB put and get through the ssh connection, beside OpenSSH's own `sftp` against the same server in one run.

    python -m benchmarks.ssh_transfer [--mebibytes 256] [--rounds 5] [--json FILE]

Both go to one sshd on loopback, with the same cipher and the same key, in turns; the best round of each counts. The
goal is a ratio of at least 0.8 both ways. OpenSSH's time includes its login, as ours does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import run
from gridcloud import connections
from gridcloud.testing.sshd import SSHServer

CIPHER = "aes128-gcm@openssh.com"


def measure(mebibytes: int, rounds: int) -> dict[str, Any]:
    """Return the rates of both in both directions, and their ratios."""
    # In memory where there is such a place: the disk is not what is measured.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
    try:
        rates = _rates(folder, mebibytes, rounds)
    finally:
        shutil.rmtree(folder)
    return {
        "mebibytes": mebibytes,
        "rounds": rounds,
        **{f"{name.replace(' ', '_')}_megabytes_per_second": rate for name, rate in rates.items()},
        "put_ratio": rates["put ours"] / rates["put sftp"],
        "get_ratio": rates["get ours"] / rates["get sftp"],
        "goals": {"put_ratio": "at least 0.8", "get_ratio": "at least 0.8"},
    }


def _rates(folder: Path, mebibytes: int, rounds: int) -> dict[str, float]:
    source, size = folder / "source", mebibytes << 20
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    seconds: dict[str, list[float]] = {"put ours": [], "put sftp": [], "get ours": [], "get sftp": []}
    with SSHServer(folder) as server:
        for _ in range(rounds):
            for verb in ("put", "get"):
                from_, to = (
                    (source, folder / "there") if verb == "put" else (folder / "there", folder / "back")
                )
                for who, work in (("sftp", openssh), ("ours", ours)):
                    to.unlink(missing_ok=True)
                    begin = time.perf_counter()
                    work(server, verb, from_, to)
                    seconds[f"{verb} {who}"].append(time.perf_counter() - begin)
                    if to.stat().st_size != size:
                        raise SystemExit(f"{verb} by {who} left {to.stat().st_size} bytes of {size}")
    return {name: size / min(times) / 1e6 for name, times in seconds.items()}


def ours(server: SSHServer, verb: str, source: Path, target: Path) -> None:
    async def work() -> None:
        connection = await connections.open(server.address(), server.credentials())
        if verb == "put":
            await connection.put(source, str(target))
        else:
            await connection.get(str(source), target)
        await connection.close()

    asyncio.run(work())


def openssh(server: SSHServer, verb: str, source: Path, target: Path) -> None:
    known = server.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    options = {
        "Ciphers": CIPHER,
        "IdentityFile": str(server.folder / "user_key"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(known),
        "BatchMode": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    batch = f"{verb} {source} {target}\n".encode()
    command = [
        "sftp",
        "-q",
        "-b",
        "-",
        "-F",
        "none",
        "-P",
        str(server.port),
        *words,
        f"{server.user}@127.0.0.1",
    ]
    subprocess.run(command, input=batch, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    run(__doc__, measure, mebibytes=256, rounds=5)
