"""256 MiB put and get through the ssh connection, beside OpenSSH's own `sftp` against the same server in one run.

    python benchmarks/ssh_transfer.py [--mebibytes 256] [--rounds 5] [--json FILE]

Both go to one sshd on loopback, with the same cipher and the same key, in turns; the best round of each counts. The
goal is a ratio of at least 0.8 both ways. OpenSSH's time includes its login, as ours does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from gridcloud import connections
from gridcloud.testing.sshd import SSHServer

GOAL = 0.8
CIPHER = "aes128-gcm@openssh.com"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the file")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is tried")
    parser.add_argument("--json", type=Path, help="also write the result there")
    chosen = parser.parse_args()
    # In memory where there is such a place: the disk is not what is measured.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
    try:
        result = measure(folder, chosen.mebibytes, chosen.rounds)
    finally:
        shutil.rmtree(folder)
    show(result)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, mebibytes: int, rounds: int) -> dict[str, object]:
    """Return seconds per round and rates of both, for both directions."""
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
    rates = {name: size / min(times) / 1e6 for name, times in seconds.items()}
    return {
        "bytes": size,
        "rounds": rounds,
        "seconds": seconds,
        "megabytes_per_second": rates,
        "ratio": {verb: rates[f"{verb} ours"] / rates[f"{verb} sftp"] for verb in ("put", "get")},
        "goal": GOAL,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


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


def show(result: dict[str, object]) -> None:
    rates, ratio = result["megabytes_per_second"], result["ratio"]
    assert isinstance(rates, dict)
    assert isinstance(ratio, dict)
    print(f"{result['machine']}, load {result['load']:.1f}, {result['rounds']} rounds, best of each")
    print(f"{'':4} {'gridcloud':>12} {'sftp':>12} {'ratio':>7}   goal {GOAL}")
    for verb in ("put", "get"):
        mine, theirs = rates[f"{verb} ours"], rates[f"{verb} sftp"]
        met = "met" if ratio[verb] >= GOAL else "NOT met"
        print(f"{verb:4} {mine:7.0f} MB/s {theirs:7.0f} MB/s {ratio[verb]:7.2f}   {met}")


if __name__ == "__main__":
    main()
