"""What the OpenStack lab keeps in the cache: the services from PyPI, and a cloud that was set up once.

The environment takes minutes to install and the cloud minutes to set up; starting from what is kept takes about one.
Both are made anew when what makes them changes.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.labs import ownership
from tests.labs.openstack_contents import fill, make_catalogue
from tests.labs.openstack_processes import APPLICATIONS, Processes
from tests.labs.openstack_settings import DATABASES, HOST, PASSWORD, REGION, database, endpoints, messages

__all__ = ["Kept", "missing_for_openstack", "missing_to_build", "prepare_openstack", "readdress"]

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "openstack-requirements.txt"
PROGRAMS = {
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "rabbitmq-server",
    "unshare": "util-linux",
    "ip": "iproute2",
}
STAMP = "installed"
METADATA = "Metadata-Version: 2.1\nName: gridcloud-lab\nVersion: 1\n"
ENTRY_POINTS = "[neutron.ml2.mechanism_drivers]\ngridcloud_lab = gridcloud_lab_ml2:BindEverything\n"


@dataclass(frozen=True)
class Kept:
    """What is in the cache: the Python environment, the folder of our own module for it, the state as a tar file."""

    environment: Path
    plugins: Path
    state: Path


def missing_to_build() -> str | None:
    """Why OpenStack cannot be built here, with the command that mends it; None when it can."""
    if os.geteuid():
        return "OpenStack needs root: sudo make test-labs"
    if not all(shutil.which(program) for program in PROGRAMS):
        return "OpenStack needs Debian packages: scripts/debian-packages labs"
    return None


def missing_for_openstack() -> str | None:
    """Why there is no OpenStack here, with the command that mends it; None when there is."""
    reason = missing_to_build()
    if reason is None and not (_kept().environment / STAMP).exists():
        reason = "OpenStack is not built (some minutes, once): python -m tests.labs openstack"
    return reason


def prepare_openstack() -> Kept:
    """Make what is not in the cache yet."""
    kept = _kept()
    kept.environment.parent.mkdir(parents=True, exist_ok=True)
    with ownership.locked(kept.environment.parent / "lock"):
        _install(kept.environment)
        _plug(kept.plugins)
        if not kept.state.exists():
            for old in kept.state.parent.glob("state-*"):
                old.unlink()
            _set_up(kept)
    return kept


def readdress(processes: Processes) -> None:
    """Write the ports and the folder of this run into the database, where another run's are."""
    # All values are our own: none comes from outside.
    statements = [
        f"update keystone.endpoint join keystone.service on service.id = endpoint.service_id "  # noqa: S608
        f"set url = '{url}' where service.type = '{kind}'"
        for kind, url in endpoints(processes.ports).items()
    ]
    cells = {"cell0": "nova_cell0", "cell1": "nova"}
    statements += [
        f"update nova_api.cell_mappings set database_connection = '{database(processes.ports, schema)}' "  # noqa: S608
        f"where name = '{cell}'"
        for cell, schema in cells.items()
    ]
    statements.append(
        f"update nova_api.cell_mappings set transport_url = '{messages(processes.ports)}' where name = 'cell1'"  # noqa: S608
    )
    statements.append(
        "update glance.image_locations set value = "  # noqa: S608
        f"concat('file://{processes.folder}/state/images/', substring_index(value, '/', -1))"
    )
    processes.query("; ".join(statements))


def _kept() -> Kept:
    # Kept where the account keeps its caches: tests run with a home of their own, which they throw away.
    cache = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/gridcloud/labs/openstack"
    sources = [HERE / f"openstack_{part}.py" for part in ("build", "contents", "settings")]
    made_by = b"".join(path.read_bytes() for path in [*sources, REQUIREMENTS])
    return Kept(
        cache / "venv", cache / "plugins", cache / f"state-{hashlib.sha256(made_by).hexdigest()[:12]}.tar"
    )


def _install(environment: Path) -> None:
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = environment / STAMP
    if ownership.read(stamp) == wanted:
        return
    if not (environment / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip: list[str | Path] = [
        environment / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--progress-bar=off",
    ]
    pip += ["--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "setuptools<81"], check=True)
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)
    stamp.write_text(wanted)


def _plug(plugins: Path) -> None:
    information = plugins / "gridcloud_lab-1.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(METADATA)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    for module in ("ml2", "volumes"):
        (plugins / f"gridcloud_lab_{module}.py").write_bytes((HERE / f"openstack_{module}.py").read_bytes())


def _set_up(kept: Kept) -> None:
    with tempfile.TemporaryDirectory(prefix="gridcloud-openstack-") as name:
        processes = Processes(Path(name), kept.environment, kept.plugins)
        try:
            processes.start_messages()
            _make_database(processes)
            _make_tables(processes)
            _start_all(processes)
            fill(processes.ports)
        finally:
            processes.close()
        with tarfile.open(kept.state.with_suffix(".new"), "w") as archive:
            archive.add(processes.folder / "state", "state")
    kept.state.with_suffix(".new").rename(kept.state)


def _start_all(processes: Processes) -> None:
    """All but nova's workers: the hypervisor takes another identity at each start, and nova wants no second one."""
    for name in APPLICATIONS:
        processes.start_application(name)
    processes.wait_for_application("identity")
    make_catalogue(processes.ports)
    processes.wait_for_messages()
    for name in APPLICATIONS:
        processes.wait_for_application(name)


def _make_database(processes: Processes) -> None:
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={processes.folder}/state/database",
         "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-file-per-table=0",
         "--innodb-log-file-size=16M"],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    processes.start_database()
    processes.query("; ".join(f"create database {name} character set utf8mb3" for name in DATABASES))
    processes.query(
        f"create user lab@'127.0.0.1' identified by '{PASSWORD}'; grant all on *.* to lab@'127.0.0.1'"
    )


def _make_tables(processes: Processes) -> None:
    keystone = _file(processes, "keystone/keystone.conf")
    account = ("--keystone-user", "root", "--keystone-group", "root")
    identity = endpoints(processes.ports)["identity"]
    processes.run("keystone-manage", *keystone, "db_sync")
    processes.run("keystone-manage", *keystone, "fernet_setup", *account)
    processes.run("keystone-manage", *keystone, "credential_setup", *account)
    processes.run(
        "keystone-manage", *keystone, "bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION,
        *(f"--bootstrap-{interface}-url={identity}" for interface in ("admin", "public", "internal")),
    )  # fmt: skip
    processes.run("glance-manage", *_file(processes, "glance/glance-api.conf"), "db_sync")
    processes.run("placement-manage", *_file(processes, "placement/placement.conf"), "db", "sync")
    processes.run("cinder-manage", *_file(processes, "cinder/cinder.conf"), "db", "sync")
    processes.run("neutron-db-manage", *_file(processes, "neutron/neutron.conf"), "upgrade", "heads")
    nova = _file(processes, "nova/nova.conf")
    cell0 = database(processes.ports, "nova_cell0")
    processes.run("nova-manage", *nova, "api_db", "sync")
    processes.run("nova-manage", *nova, "cell_v2", "map_cell0", "--database_connection", cell0)
    processes.run("nova-manage", *nova, "db", "sync")
    processes.run("nova-manage", *nova, "cell_v2", "create_cell", "--name=cell1")
    processes.query(
        f"insert into nova_api.host_mappings (created_at, host, cell_id) select now(), '{HOST}', id "  # noqa: S608
        "from nova_api.cell_mappings where name = 'cell1'"
    )


def _file(processes: Processes, name: str) -> tuple[str, str]:
    return "--config-file", f"{processes.folder}/etc/{name}"
