"""The MultipleSpawner's files as the paper and the thesis print them, from the form to a notebook to gone.

The cloud is `tests.labs.oracle`; behind it are machines with an address, an sshd and accounts of their own, booted by
what the driver gives them. Nothing is changed in the files; what they name lies where they say.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from gridcloud.client import connect_async
from gridcloud.errors import InvalidSettings
from gridcloud.instances.model import Request
from gridcloud.profiles import Book, Person
from gridcloud.settings import SettingsFile
from gridcloud.spawner.options import Asked, read_options
from tests import houses
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import missing_for_machines
from tests.labs.oracle import Oracle
from tests.labs.oracle_drivers import OracleDrivers, live
from tests.labs.oracle_machines import OracleMachines
from tests.profiles.listings import LISTING_1, LISTING_2, LISTING_2_UNREADABLE, THESIS, THREE_TYPES
from tests.spawner.conftest import HERE
from tests.spawner.kernel import open_kernel
from tests.spawner.test_far import REACH
from tests.spawner.test_form import xsrf
from tests.spawner.uphouse import NAVIGATE, UpHouse

MACHINE = "virtualmachine-spawner-oci-oracle-linux-7-8"

SETTINGS = (
    "providers: {oci: {driver: oci, compartment: lab, image: Oracle Linux 7.8, allow_from: 192.0.2.0/24}}\n"
)

PAPERS_PLAYBOOK = """
- hosts: compute
  gather_facts: false
  tasks:
    - name: Add the user
      ansible.builtin.user: {name: "{{ new_username }}", shell: /bin/bash}
    - name: Say whose machine it is
      ansible.builtin.copy: {content: "{{ new_username }}", dest: /etc/whose, mode: "0644"}
"""

PREPARE = """
- hosts: compute
  gather_facts: false
  tasks:
    - name: Add the users
      ansible.builtin.user: {name: "{{ item.name }}", shell: /bin/bash}
      loop: "{{ users }}"
    - name: Make a place for their keys
      ansible.builtin.file: {path: "/home/{{ item.name }}/.ssh", state: directory, mode: "0755"}
      loop: "{{ users }}"
    - name: Say which keys let them in
      ansible.builtin.copy:
        {content: "{{ item.auth_key }}", dest: "/home/{{ item.name }}/.ssh/authorized_keys", mode: "0644"}
      loop: "{{ users }}"
"""

CHANGE = """
- hosts: compute
  gather_facts: false
  tasks:
    - name: Say where the hub is
      ansible.builtin.copy:
        content: "{{ users[0].name }} {{ jupyterhub.server_public_ip }} [{{ jupyterhub.server_host_key }}]"
        dest: /etc/hub
        mode: "0644"
"""

LEFT = ("instance", "vnic", "bootvolume", "vcn", "subnet", "internetgateway", "routetable", "securitylist")
"""What a machine has at the cloud."""


def book_of(folder: Path, templates: str, deployments: str) -> Book:
    """Return what a hub offers that is told of these files by its environment."""
    files = {"MULTIPLE_SPAWNER_TEMPLATE_FILE": templates, "MULTIPLE_SPAWNER_DEPLOYMENT_FILE": deployments}
    environment = {}
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
        environment[name] = str(folder / f"{name}.json")
    (folder / "config.yaml").write_text(SETTINGS)
    return Book(SettingsFile(folder / "config.yaml", {}), environment)


def ask(book: Book, **chosen: str) -> Asked:
    """Return what a form of the machine's profile comes to."""
    settings, problems = book.current()
    assert not problems
    options = {"profile": MACHINE, **chosen}
    return read_options(options, settings, book.choices(Person("ada")), known={"JUPYTERHUB_USER": "ada"})


# Reading, mapping, choosing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("templates", "deployments"), [(LISTING_2, LISTING_1), (THESIS, LISTING_1)])
def test_what_is_printed_is_offered(templates: str, deployments: str, tmp_path: Path) -> None:
    book = book_of(tmp_path, templates, deployments)
    asked = ask(book, cpus="2", memory="4GiB", time="1h")
    assert (asked.request.on, asked.request.image) == ("oci", "Oracle Linux 7.8")
    [playbooks] = asked.configure
    assert "{JUPYTERHUB_USER}" not in json.dumps(playbooks)
    assert playbooks["become"] is True
    assert {note.key.partition(".")[2] for note in book.notes} >= {
        "configurer.options.host_variables.ansible_user",
        "configurer.options.host_settings.port",
        "authenticator.kwargs.create_certificate",
    }


def test_a_misprint_is_told_with_its_place(tmp_path: Path) -> None:
    book = book_of(tmp_path, LISTING_2_UNREADABLE, LISTING_1)
    [fault] = book.current()[1]
    assert isinstance(fault, InvalidSettings)
    assert re.match(r".*_FILE\.json:11:10: this is no YAML: ", str(fault)), str(fault)


@pytest.mark.parametrize(
    ("asked", "shape", "edition"),
    [
        ({}, "VM.Standard.E4.Flex", "Oracle-Linux-7.8-2020.09.23-0"),
        ({"gpus": "1"}, "VM.GPU2.1", "Oracle-Linux-7.8-Gen2-GPU-2020.09.23-0"),
        ({"gpus": "2"}, "VM.GPU3.2", "Oracle-Linux-7.8-Gen2-GPU-2020.09.23-0"),
    ],
)
async def test_the_smallest_shape_with_the_gpus_is_taken(
    asked: dict[str, str], shape: str, edition: str, tmp_path: Path
) -> None:
    request: Request = ask(book_of(tmp_path, LISTING_2, LISTING_1), cpus="2", memory="4GiB", **asked).request
    with Oracle() as cloud:
        cloud.tenancy.add_compartment("lab")
        drivers = OracleDrivers(cloud, tmp_path)
        try:
            offer = (await drivers(shapes=["*"], image="Oracle Linux 7.8").offers(request))[0]
        finally:
            await drivers.close()
    assert (offer.available, offer.shape.name, offer.image.partition(" ")[0]) == (True, shape, edition)
    if shape == "VM.GPU2.1":
        paper = (offer.shape.cpus, offer.shape.memory, offer.shape.gpus, offer.shape.gpu_model)
        assert paper == (24, 72 << 30, 1, "NVIDIA Tesla P100"), (
            "12 OCPUs and 72 GB, as in the paper's Listing 3"
        )


# From the form to a notebook to gone ---------------------------------------------------------------------------


class Scene:
    """A hub whose environment names the two files, the cloud, and the machines behind it."""

    def __init__(self, house: UpHouse, cloud: Oracle, machines: OracleMachines) -> None:
        self.house = house
        self.cloud = cloud
        self.machines = machines

    def give(self, templates: str, deployments: str) -> None:
        """Put other text into the two files, which counts at once."""
        (self.house.folder / "t.json").write_text(templates)
        (self.house.folder / "d.json").write_text(deployments)

    def left(self) -> dict[str, int]:
        """Return what the cloud still has, by kind."""
        return {kind: count for kind in LEFT if (count := len(live(self.cloud, kind)))}

    async def start(self, client: Any, profile: str, **fields: str) -> str:
        """Send the form; return what was told until the session was ready, or failed."""
        token = await xsrf(client)
        form = {"gridcloud_profile": profile, **fields}
        async with client.post(f"/hub/spawn?_xsrf={token}", data=form, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
        headers = {"X-XSRFToken": token}
        async with client.get("/hub/api/users/ada/server/progress", headers=headers, timeout=600) as answer:
            return str(await answer.text())

    async def stop(self, admin: Any) -> None:
        """Stop the session, and return when the cloud has nothing of it. The network goes when it is looked for."""
        await self.house.stop_server(admin, "ada")
        for _ in range(300):
            if not self.machines.machines and not set(self.left()) & {"instance", "vnic", "bootvolume"}:
                break
            await asyncio.sleep(0.2)
        async with await connect_async(data=self.house.data, alone=True) as client:
            for _ in range(10):
                if not self.left():
                    return
                await client.mend()
        raise AssertionError(f"left at the cloud: {self.left()}{self.house.logs()}")


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Oracle, OracleMachines]]:
    if reason := missing_for_machines():
        pytest.skip(f"NOT TESTED: {reason}")
    with Oracle() as cloud, OracleMachines(cloud) as found:
        cloud.tenancy.add_compartment("lab")
        yield cloud, found


@pytest.fixture(scope="module")
def engine(podman_engine: Engine) -> Engine:
    """Podman, whose image has the name that the thesis gives it."""
    client = docker.DockerClient(base_url=podman_engine.url)
    try:
        client.images.get(SESSION_IMAGE).tag("nielsbohr/python-notebook", "latest")
    finally:
        client.close()
    return podman_engine


@pytest.fixture(scope="module")
def scene(
    machines: tuple[Oracle, OracleMachines],
    engine: Engine,
    make_house: Callable[..., UpHouse],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    cloud, behind = machines
    folder = tmp_path_factory.mktemp("home")
    books = folder / ".multiplespawner" / "playbooks"
    books.mkdir(parents=True)
    (books / "prep_environment.yml").write_text(PREPARE)
    (books / "change_user.yml").write_text(CHANGE)
    oci = {
        "driver": "oci",
        "compartment": "lab",
        "config_file": str(cloud.write_config(folder)),
        "endpoint": cloud.url,
        "image": "Oracle Linux 7.8",
        "user": "opc",
        "allow_from": [f"{behind.gateway}/32"],
    }
    pods = houses.containers(engine, "nielsbohr/python-notebook:latest")
    limits = {"retry_first": 0.1, "orphan": 0, "offers": 60}
    house = make_house({"oci": oci, "pods": pods, "here": HERE}, limits=limits)
    (house.folder / "setup_ssh_spawner.yml").write_text(PAPERS_PLAYBOOK)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    house.before = (
        "env",
        f"HOME={folder}",
        f"XDG_CACHE_HOME={cache}",
        f"MULTIPLE_SPAWNER_TEMPLATE_FILE={house.folder / 't.json'}",
        f"MULTIPLE_SPAWNER_DEPLOYMENT_FILE={house.folder / 'd.json'}",
    )
    scene = Scene(house, cloud, behind)
    scene.give(LISTING_2, LISTING_1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", "ada")  # whose hub it is: a name that no account of this computer has
        house.start(timeout=600)
        yield scene
        house.stop()


@pytest.fixture
async def admin(scene: Scene) -> AsyncIterator[Any]:
    async with scene.house.api() as client:
        yield client
        if await scene.house.server(client, "ada"):  # of a test that failed
            await scene.house.stop_server(client, "ada")


def lab(test: Any) -> Any:
    """Mark a test that starts machines: minutes on a computer with other work."""
    marks = pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(900)
    kept = pytest.mark.keeps(
        "connections of the hub's service to the cloud, in threads of the cloud's server"
    )
    for mark in (*marks, kept):
        test = mark(test)
    return test


@lab
@pytest.mark.parametrize(("gpus", "shape"), [("", "VM.Standard.E4.Flex"), ("1", "VM.GPU2.1")])
async def test_the_papers_listings(scene: Scene, admin: Any, gpus: str, shape: str) -> None:
    scene.give(LISTING_2, LISTING_1)
    async with scene.house.browser() as client:
        async with client.get("/hub/spawn", headers=NAVIGATE) as answer:
            page = await answer.text()
        assert re.findall(r'name="gridcloud_profile" value="(.+?)"', page) == [MACHINE]
        told = await scene.start(client, MACHINE, cpus="2", memory="4GiB", gpus=gpus, time="1h")
    assert '"ready": true' in told, told + scene.house.logs()
    assert "Say whose machine it is" in told, "its steps are told as they are done"
    [instance] = live(scene.cloud)
    assert instance.words["shape"] == shape
    async with open_kernel(admin, (await scene.house.server(admin, "ada"))["url"]) as kernel:
        assert (await kernel.run(REACH)).startswith("ada /home/opc")
        assert (await kernel.run("print(open('/etc/whose').read())")).strip() == "ada"
    machine = scene.machines.machines[instance.id]
    doors = re.findall(r"Accepted publickey for (\w+) .* ssh2: (\S+)-CERT ", machine.log.read_text())
    assert {account for account, _ in doors} == {"opc"}
    assert scene.left()["vcn"] == 1
    await scene.stop(admin)


@lab
async def test_another_host_key_is_refused_and_nothing_is_left(scene: Scene, admin: Any) -> None:
    scene.give(LISTING_2, LISTING_1)
    scene.machines.impostor = True
    try:
        async with scene.house.browser() as client:
            told = await scene.start(client, MACHINE, cpus="2", memory="4GiB", time="1h")
    finally:
        scene.machines.impostor = False
    assert '"failed": true' in told
    assert "HOST KEY MISMATCH" in told
    assert "Accepted" not in "".join(scene.machines.logs[-1:])
    await scene.stop(admin)


@lab
async def test_the_thesis_three_types(scene: Scene, admin: Any, tmp_path: Path) -> None:
    own = {"home_dir_template": f"{tmp_path}/{{username}}", "args": ["--allow-root"]}
    local = {"class": "jupyterhub.spawner.SimpleLocalProcessSpawner", "kwargs": own}
    swarm = {"class": "jhub.SwarmSpawner", "kwargs": {"networks": ["swarm_default"]}}
    rows = [
        {"name": "Local", "resource_type": "bare_metal", "providers": ["local"], "spawner": local},
        {"name": "Swarm", "resource_type": "container", "providers": ["local"], "spawner": swarm},
    ]
    more = ",\n".join(json.dumps(row, indent=2) for row in rows)
    scene.give(re.sub(r"\]\s*$", f", {more}]", THESIS), THREE_TYPES)
    async with scene.house.browser() as client:
        async with client.get("/hub/spawn", headers=NAVIGATE) as answer:
            page = await answer.text()
        profiles = re.findall(r'name="gridcloud_profile" value="(.+?)"', page)
        assert len(profiles) == 3, page
        for profile in profiles:
            fields = {} if profile.startswith("local") else {"cpus": "0.5", "memory": "1GiB", "time": "1h"}
            told = await scene.start(client, profile, **fields)
            assert '"ready": true' in told, told + scene.house.logs()
            async with open_kernel(admin, (await scene.house.server(admin, "ada"))["url"]) as kernel:
                assert (await kernel.run("print(6 * 7)")).strip() == "42"
                if profile == MACHINE:
                    assert (await kernel.run("print(open('/etc/hub').read())")).startswith("ada 127.0.0.1 [")
                    keys = await kernel.run("print(open('/home/ada/.ssh/authorized_keys').read())")
                    assert keys.startswith("cert-authority ssh-ed25519 ")
            await scene.stop(admin)
