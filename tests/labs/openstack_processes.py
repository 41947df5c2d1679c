"""The processes of the OpenStack lab: a database, a message queue and the services, all on loopback.

Each is in a session of its own and dies with the test process; what might start children of its own is the first
process of a process namespace, so that its children end with it.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.labs import ownership
from tests.labs.openstack_settings import PORTS, render
from tests.leftovers import MARK

__all__ = ["Processes", "free_ports"]

APPLICATIONS = {
    "identity": ("keystone.wsgi.api", "keystone", "keystone.conf"),
    "placement": ("placement.wsgi.api", "placement", ""),
    "image": ("glance.wsgi.api", "glance", ""),
    "network": ("neutron.wsgi.api", "neutron", "neutron.conf"),
    "compute": ("nova.wsgi.osapi_compute", "nova", ""),
    "volume": ("cinder.wsgi.api", "cinder", ""),
}
"""Module, folder of its configuration, and the file in it where the module does not know its name."""

WORKERS = {
    "nova-conductor": "nova",
    "nova-scheduler": "nova",
    "nova-compute": "nova",
    "cinder-scheduler": "cinder",
    "cinder-volume": "cinder",
}
"""Each with the folder of its configuration."""


def free_ports() -> dict[str, int]:
    """A port that nobody listens on for each of the `PORTS`."""
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in PORTS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}


class Processes:
    """What runs from one folder. ``environment`` is the Python environment with the services, ``plugins`` a folder of
    modules for neutron."""

    def __init__(self, folder: Path, environment: Path, plugins: Path) -> None:
        self.folder, self.environment, self.plugins = folder, environment, plugins
        self.ports = free_ports()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in (
            "log",
            "home",
            "locks",
            "state/images",
            "state/nova",
            "state/neutron",
            "state/cinder",
            "rabbitmq",
        ):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, text in render(folder, self.ports, environment / "etc").items():
            path = folder / "etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def start_database(self) -> None:
        """Start MariaDB on ``state/database`` and return when it answers."""
        self._start(
            "database",
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={self.folder}/state/database",
             f"--socket={self.folder}/database.sock", f"--pid-file={self.folder}/database.pid",
             "--bind-address=127.0.0.1", f"--port={self.ports['database']}", "--max-connections=500",
             "--innodb-flush-log-at-trx-commit=0", "--innodb-file-per-table=0", "--innodb-log-file-size=16M",
             "--skip-name-resolve"],
            contained=False,
        )  # fmt: skip
        for _ in self._waits("database", 60):
            if not subprocess.run(self._client("select 1"), capture_output=True).returncode:
                return

    def query(self, statements: str) -> str:
        """Run SQL as the database's administrator; what it answers."""
        return subprocess.run(self._client(statements), check=True, stdout=subprocess.PIPE, text=True).stdout

    def start_messages(self) -> None:
        """Start RabbitMQ; it answers some seconds later (`wait_for_messages`)."""
        names = str(self.ports["names"])
        self._start("names", ["epmd", "-address", "127.0.0.1", "-port", names])
        self._start(
            "messages",
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            {
                "ERL_EPMD_PORT": names,
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": "lab@localhost",
                "RABBITMQ_DIST_PORT": str(self.ports["distribution"]),
                "RABBITMQ_CONFIG_FILE": f"{self.folder}/etc/rabbitmq.conf",
                "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.folder}/etc/plugins",
                "RABBITMQ_MNESIA_BASE": f"{self.folder}/rabbitmq",
                "RABBITMQ_LOG_BASE": f"{self.folder}/log",
                "RABBITMQ_PID_FILE": f"{self.folder}/rabbitmq.pid",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            },
        )

    def wait_for_messages(self) -> None:
        """Return when RabbitMQ takes connections."""
        for _ in self._waits("messages", 120):
            if _connects(self.ports["messages"]):
                return

    def start_application(self, name: str) -> None:
        """Start one of the `APPLICATIONS`; it answers many seconds later (`wait_for_application`)."""
        module, folder, file = APPLICATIONS[name]
        prefix = f"OS_{folder.upper()}_CONFIG"
        settings = {f"{prefix}_DIR": f"{self.folder}/etc/{folder}", "PYTHONPATH": str(self.plugins)}
        if file:
            settings[f"{prefix}_FILES"] = file
        # Cinder's module reads its arguments instead.
        arguments = (
            ["--pyargv", f"--config-file {self.folder}/etc/cinder/cinder.conf"] if folder == "cinder" else []
        )
        # Each answer closes its connection, so that no test holds one when it ends.
        self._start(
            name,
            [f"{self.environment}/bin/uwsgi", "--http-socket", f"127.0.0.1:{self.ports[name]}", "--module",
             f"{module}:application", "--processes", "1", "--threads", "8", "--enable-threads", "--need-app",
             "--add-header", "Connection: close", "--buffer-size", "65535", "--http-chunked-input", *arguments],
            settings,
        )  # fmt: skip

    def wait_for_application(self, name: str) -> None:
        """Return when the application answers a question."""
        for _ in self._waits(name, 300):
            if _answers(self.ports[name]):
                return

    def start_worker(self, name: str) -> None:
        """Start one of the `WORKERS`."""
        file = f"{self.folder}/etc/{WORKERS[name]}/{WORKERS[name]}.conf"
        command = [f"{self.environment}/bin/{name}", "--config-file", file]
        self._start(name, command, {"PYTHONPATH": str(self.plugins)})

    def run(self, program: str, *words: str) -> None:
        """Run one of the environment's programs to its end. Raises RuntimeError with what it said."""
        done = subprocess.run(
            [f"{self.environment}/bin/{program}", *words],
            env=self._variables({"PYTHONPATH": str(self.plugins)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        (self.folder / "log" / program).write_text(done.stdout)
        if done.returncode:
            raise RuntimeError(
                f"{program} {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-3000:]}"
            )

    def close(self) -> None:
        """End everything. The database is ended gently, so that its files can be kept."""
        for name in [name for name in self._running if name != "database"]:
            ownership.end_group(self._running.pop(name))
        if "database" in self._running:
            ownership.end_group(self._running.pop("database"), gently=30)

    def log(self, name: str) -> str:
        """What a process has said."""
        return ownership.read(self.folder / "log" / name)

    def _start(
        self,
        name: str,
        command: list[str],
        variables: Mapping[str, str] | None = None,
        *,
        contained: bool = True,
    ) -> None:
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
        self._running[name] = ownership.start_owned(
            [*own, *command] if contained else command,
            environment=self._variables(variables or {}),
            log=self.folder / "log" / name,
        )

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        # A process that a service starts on its own account is not left behind by the test that runs just then.
        base = {name: value for name, value in os.environ.items() if name != MARK and "PYTHON" not in name}
        return (
            base
            | {"HOME": f"{self.folder}/home", "PYTHONWARNINGS": "ignore", "OS_LOG_COLOR": "0"}
            | dict(more)
        )

    def _client(self, statements: str) -> list[str]:
        path = shutil.which("mariadb") or "mariadb"
        return [path, "--no-defaults", "-uroot", "-S", f"{self.folder}/database.sock", "-Ne", statements]

    def _waits(self, name: str, seconds: float) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        while True:
            yield
            code = self._running[name].poll()
            if code is not None or time.monotonic() > deadline:
                ended = (
                    f"ended with {signal.Signals(-code).name if code < 0 else code}"
                    if code is not None
                    else "is silent"
                )
                raise RuntimeError(f"{name} of the OpenStack lab {ended}:\n{self.log(name)[-3000:]}")
            time.sleep(0.1)


def _connects(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(10)
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(20)
        try:
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/")
        except OSError:
            return False
