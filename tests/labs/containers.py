"""Container engines of the tests' own: Podman's service and dockerd, speaking the Docker API on a private socket.

An engine runs in network, mount, process and control group namespaces of its own: it changes no firewall rule or
network of this computer, and ending its first process ends every container and mount it made. For the same reason the
addresses and published ports of its containers are not reachable from the tests: act on them by `exec`. Paths of this
computer can be bind-mounted into containers.

    with Engine("podman") as engine:
        client = docker.DockerClient(base_url=engine.url)

Two images are there, imported once and kept in the cache: `SESSION_IMAGE`, in which `jupyterhub-singleuser` starts, and
`TINY_IMAGE`, a few MB with a shell, coreutils and tar. There is no registry; other images do not exist.
"""

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import docker

from tests.labs import ownership

__all__ = ["SESSION_IMAGE", "TINY_IMAGE", "Engine", "missing_for_engine", "prepare_images"]

SESSION_IMAGE = "gridcloud-session:test"
TINY_IMAGE = "gridcloud-tiny:test"
PROGRAMS = {
    "podman": {"podman": "podman", "runc": "runc", "ip": "iproute2", "mmdebstrap": "mmdebstrap"},
    "docker": {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2", "mmdebstrap": "mmdebstrap"},
}
TINY_PROGRAMS = """
sh bash sleep cat ls id env mkdir rm rmdir cp mv ln chmod chown touch head tail wc stat find grep sed tar gzip mktemp dd
base64 sha256sum printf echo true false test kill ps pwd date uname hostname sort tr seq tee timeout dirname basename
readlink realpath sync df du nohup setsid
"""


class Engine:
    """One running engine. A context manager; `open` and `close` do the same by hand. `url` is for the Docker API."""

    def __init__(self, name: Literal["podman", "docker"]) -> None:
        self.name = name
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/engine.sock"

    @property
    def log(self) -> str:
        """What the engine has said."""
        return (self.folder / "log").read_text()

    def open(self) -> Self:
        images = prepare_images(self.name)
        self.folder = ownership.claim(self.name)
        try:
            self._start(self.folder / "storage", images)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the engine with all its containers, and remove its storage. May be called twice."""
        self.kill()
        if self.folder.name:
            ownership.release(self.folder)

    def kill(self) -> None:
        """End the engine and its containers at once, as a crash of its computer does."""
        if self._process:
            ownership.end_group(self._process)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, storage: Path, images: Path | None, *, seconds: float = 60) -> None:
        storage.mkdir(exist_ok=True)
        configure = _configure_podman if self.name == "podman" else _configure_docker
        command, environment = configure(self.folder, storage, images)
        self._process = ownership.start_owned(
            ["unshare", "--net", "--mount", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc",
             "--propagation", "slave", "sh", str(Path(__file__).with_name("engine.sh")), *command],
            cgroups=ownership.make_cgroups(self.folder.name, "engine"),
            environment={"PATH": os.environ["PATH"], "BIND": ""} | environment,
            log=self.folder / "log",
        )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not _answers(self.folder / "engine.sock"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log}")
            time.sleep(0.02)


def missing_for_engine(name: Literal["podman", "docker"]) -> str | None:
    """Why this engine cannot be started here, with the command that mends it; None when it can."""
    if os.geteuid():
        return f"containers through {name} need root: sudo make test"
    lacking = sorted({package for program, package in PROGRAMS[name].items() if not shutil.which(program)})
    return (
        f"containers through {name} need Debian packages: apt-get install {' '.join(lacking)}"
        if lacking
        else None
    )


def _configure_podman(folder: Path, storage: Path, images: Path | None) -> tuple[list[str], dict[str, str]]:
    stores = f'additionalimagestores = ["{images}"]\n' if images else ""
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}"\nrunroot = "{folder}/run"\n[storage.options]\n{stores}'
    )
    # Where the limit on open files cannot be raised, Podman's default for containers is refused by the kernel.
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n'
        f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\ntmp_dir = "{folder}/tmp"\n'
        f'[network]\nnetwork_config_dir = "{folder}/networks"\n'
    )
    command = ["podman", "system", "service", "--time=0", f"unix://{folder}/engine.sock"]
    return command, {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }


def _configure_docker(folder: Path, storage: Path, images: Path | None) -> tuple[list[str], dict[str, str]]:
    bind = []
    if images:
        # A copy of the small records; the layers themselves are bound from where they are kept and only read.
        layers = {path.relative_to(images) for path in (images / "overlay2").glob("*/diff")}
        for part in ("image", "overlay2"):
            shutil.copytree(
                images / part,
                storage / part,
                symlinks=True,
                ignore=lambda parent, names: ["diff"] if Path(parent).parent.name == "overlay2" else [],
            )
        # First both folders on themselves: Docker would do so later, hiding what is mounted below.
        bind = [f"{path} {path}" for path in (storage, storage / "overlay2")]
        bind += [f"{images / path} {storage / path}" for path in layers]
    (folder / "daemon.json").write_text("{}")
    command = [
        "dockerd", "--config-file", f"{folder}/daemon.json", "--host", f"unix://{folder}/engine.sock", "--data-root",
        str(storage), "--exec-root", f"{folder}/run", "--pidfile", f"{folder}/pid", "--storage-driver", "overlay2",
        "--exec-opt", "native.cgroupdriver=cgroupfs",
    ]  # fmt: skip
    return command, {"BIND": "\n".join(bind)}


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(str(address))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
        except OSError:
            return False


def prepare_images(name: Literal["podman", "docker"]) -> Path:
    """The engine's image store with both images in it, made at first use (about half a minute)."""
    root = ownership.root_filesystem()
    made_by = (ownership.SCRIPTS / "build-container-image").read_bytes() + TINY_PROGRAMS.encode()
    kept = root.parent / f"{name}-{hashlib.sha256(made_by).hexdigest()[:8]}"
    with ownership.locked(root.parent / f"{name}.lock"):
        if not kept.exists():
            maker = Engine(name)
            maker.folder = ownership.claim(name)
            for old in root.parent.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            storage = root.parent / f"{name}-new"
            try:
                maker._start(storage, None)
                command = [
                    str(ownership.SCRIPTS / "build-container-image"),
                    "--engine",
                    maker.url,
                    SESSION_IMAGE,
                ]
                ownership.run_script(command)
                _import_tiny(maker.url, root)
            finally:
                maker.close()
            storage.rename(kept)
    return kept


def _import_tiny(url: str, root: Path) -> None:
    archive = io.BytesIO()
    programs = [path for name in TINY_PROGRAMS.split() if (path := root / "usr/bin" / name).exists()]
    listed = subprocess.run(
        ["chroot", root, "ldd", *(f"/usr/bin/{path.name}" for path in programs)],
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    libraries = {word for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder, mode in (("usr/bin", 0o755), ("tmp", 0o1777), ("root", 0o700), ("home/user", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            entry.uid = entry.gid = 1000 if folder == "home/user" else 0
            tar.addfile(entry)
        for link in ("bin", "sbin", "lib", "lib64"):
            tar.add(root / link, link)
        for file in ("etc/passwd", "etc/group"):
            tar.add(root / file, file)
        for path in programs:
            tar.add(os.path.realpath(path) if path.name == "sh" else path, f"usr/bin/{path.name}")
        for library in sorted(libraries):
            inside = Path("usr") / library.removeprefix("/usr").lstrip("/")
            tar.add((root / inside).resolve(), str(inside))
    client = docker.APIClient(base_url=url, timeout=60)
    answer = client.import_image(
        iter([archive.getvalue()]), TINY_IMAGE, changes=['CMD ["/bin/sh"]'], stream_src=True
    )
    client.close()
    if "error" in str(answer):
        raise RuntimeError(f"the tiny image was refused: {answer}")
