"""Our own images, built here, and sessions in them: by the hub, in a container, with packages that its user adds."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest

from gridcloud.errors import ConfigurationFailed
from gridcloud.images import Builder, Built, Podman, images_folder, read_stack
from tests import houses
from tests.labs.containers import Engine
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(3600)]

LOOK = """
import importlib.util, json, os, sys
import MODULE
kept = ""
if importlib.util.find_spec("matplotlib"):
    import matplotlib
    kept = matplotlib.get_cachedir()
bill = json.load(open("/opt/gridcloud-session/share/gridcloud/contents.cdx.json"))
print(json.dumps({
    "place": MODULE.__file__,
    "user": os.getuid(),
    "python": sys.executable,
    "fonts": not kept or any(name.startswith("fontlist") for name in os.listdir(kept)),
    "compiled": os.path.exists(MODULE.__spec__.cached),
    "writable": os.access("/opt/gridcloud-session", os.W_OK),
    "bill": [one["version"] for one in bill["components"] if one["name"] == "MODULE"],
}))
"""

BUILT = [("base", "ipywidgets"), ("datascience", "numpy")]
"""Images, and a module that is in each."""


@pytest.fixture(scope="module")
def cache() -> Path:
    """Where the images are kept from one run to the next; LAB_IMAGES names another folder."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # that of the tests goes with them
    return Path(os.environ.get("LAB_IMAGES") or home / ".cache" / "gridcloud" / "labs" / "images")


@pytest.fixture(scope="module")
def builder(cache: Path) -> Builder:
    """A builder with a store of its own."""
    for program in ("podman", "mmdebstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"building images needs {program}: apt-get install {program}")
    stack = read_stack(images_folder())
    return Builder(stack, Podman(store=cache), "amd64", cache / "work", print)


async def load(builder: Builder, built: Built, engine: Engine, folder: Path) -> None:
    """Put an image into the store of an engine of the tests' own, as an archive."""
    archive = folder / "image.tar"
    await builder.save(built, archive)

    def send() -> None:
        client = docker.DockerClient(base_url=engine.url, timeout=900)
        try:
            with archive.open("rb") as file:
                client.images.load(file)
        finally:
            client.close()

    await asyncio.to_thread(send)
    archive.unlink()


async def test_a_build_is_done_once_and_tells_what_it_is(builder: Builder) -> None:
    science = await builder.build("datascience")
    again = Builder(builder.stack, builder.podman, "amd64", builder.cache, builder.tell)
    assert await again.build("datascience") == science
    labels = await builder.podman.labels(science.reference)
    assert labels["org.gridcloud.image.name"] == "datascience"
    assert labels["org.gridcloud.image.jupyterhub"] == builder.stack["base"].lock("amd64").jupyterhub
    assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")


async def test_what_is_not_in_the_lock_ends_the_build(builder: Builder, tmp_path: Path) -> None:
    """A package whose sum is another one, here of Debian's."""
    copied = tmp_path / "images"
    for name in ("base", "hpc"):
        shutil.copytree(images_folder() / name, copied / name)
    path = copied / "hpc" / "image.yaml"
    path.write_text("title: Changed\nparent: base\ndebian: [make]\n")
    stack = read_stack(copied)
    lock = (
        f"of: {stack.packages_digest('hpc')}\narchitecture: amd64\ndebian: {{'make=4.3-4.1': '{'0' * 64}'}}\n"
    )
    (copied / "hpc" / "lock.amd64.yaml").write_text(lock)
    with pytest.raises(ConfigurationFailed, match=r"make_4\.3-4\.1_amd64\.deb is not in the lock"):
        await Builder(stack, builder.podman, "amd64", builder.cache, builder.tell).build("hpc")


async def ready(house: UpHouse, client: aiohttp.ClientSession, name: str, options: dict[str, Any]) -> str:
    """Start a session and return its path; what keeps it from starting is raised."""
    await house.user(client, name)
    async with client.post(f"/hub/api/users/{name}/server", json=options) as answer:
        if answer.status not in (201, 202):
            raise RuntimeError(await answer.text())
    async with asyncio.timeout(900):
        while True:
            server = await house.server(client, name)
            if server.get("ready"):
                return str(server["url"])
            if not server.get("pending"):
                raise RuntimeError(house.logs())
            await asyncio.sleep(1)


@pytest.mark.parametrize(("name", "module"), BUILT)
async def test_sessions_in_it(
    make_house: Callable[..., UpHouse],
    podman_engine: Engine,
    builder: Builder,
    tmp_path: Path,
    name: str,
    module: str,
) -> None:
    built = await builder.build(name)
    await load(builder, built, podman_engine, tmp_path)
    profiles = {"plain": {"request": {"cpus": 1, "memory": "1GiB"}}, "more": {"requirements": "*"}}
    house = make_house({"box": houses.containers(podman_engine, built.reference)}, profiles=profiles)
    house.start()
    look = LOOK.replace("MODULE", module)
    try:
        async with house.api() as client:
            path = await ready(house, client, "ada", {"profile": "plain"})
            async with open_kernel(client, path) as kernel:
                told = json_of(await kernel.run(look))
            await house.stop_server(client, "ada")
            assert told["user"] == 1000
            assert told["python"].startswith("/opt/gridcloud-session/bin/python")
            assert told["fonts"]
            assert told["compiled"]
            assert not told["writable"]
            assert told["bill"]

            # It has no network: what is there already needs none, and what is not cannot be had.
            path = await ready(house, client, "ada", {"profile": "more", "requirements": f"{module}>=1\n"})
            async with open_kernel(client, path) as kernel:
                told = json_of(await kernel.run(look))
            await house.stop_server(client, "ada")
            assert "/.cache/gridcloud/environments/" in told["python"]
            assert told["place"].startswith("/opt/gridcloud-session/")
            with pytest.raises(RuntimeError, match="No matching distribution found for no-such-package"):
                await ready(house, client, "ada", {"profile": "more", "requirements": ["no-such-package==7"]})
    finally:
        house.stop()


def json_of(text: str) -> dict[str, Any]:
    """Return what a cell printed."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found
