"""What the ``container`` driver asks of an engine, through the `docker` SDK: blocking calls, errors translated once."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException

from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NoCapacity,
    NotFound,
    Rejected,
    TimedOut,
    Transient,
    Unreachable,
)

__all__ = ["ContainerEngine", "NameTaken", "find_engine", "make_archive"]

T = TypeVar("T")

_QUICK, _SLOW = 8, 50  # seconds for a look, and for what makes or removes something


class NameTaken(Transient):
    """A container of that name is there already."""


class ContainerEngine:
    """One engine of Docker's API. Every method blocks and raises errors of gridcloud."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._clients: dict[int, docker.APIClient] = {}

    def close(self) -> None:
        """Let go of the engine. May be called twice."""
        while self._clients:
            self._clients.popitem()[1].close()

    def information(self) -> Mapping[str, Any]:
        """Return what the engine says of itself and its computer."""
        return dict(
            self._ask(_QUICK, lambda client: client.info() | {"Version": client.version()["Version"]})
        )

    def images(self) -> list[str]:
        """Return the names of the images that are there."""
        listed = self._ask(_QUICK, lambda client: client.images())
        return sorted({tag for image in listed for tag in image.get("RepoTags") or () if "<none>" not in tag})

    def image(self, name: str) -> Mapping[str, Any]:
        """Return the configuration of an image. Raises NotFound."""
        return dict(self._ask(_QUICK, lambda client: client.inspect_image(name))["Config"] or {})

    def pull(self, name: str) -> None:
        """Fetch an image from where its name says; takes as long as it takes. Raises Rejected, Transient."""

        def pull(client: Any) -> None:
            tag = None if _tagged(name) else "latest"
            for line in client.pull(name, tag, stream=True, decode=True):
                if "error" in line:
                    raise _explained(0, str(line["error"]), f"the image {name}")

        self._ask(3600, pull)

    def containers(self, labels: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return all containers, ended ones too, that carry the labels (``name`` or ``name=value``)."""
        return list(
            self._ask(_QUICK, lambda client: client.containers(all=True, filters={"label": list(labels)}))
        )

    def inspect(self, container: str) -> Mapping[str, Any]:
        """Return everything about a container. Raises NotFound."""
        return dict(self._ask(_QUICK, lambda client: client.inspect_container(container)))

    def create(self, name: str, host: Mapping[str, Any], **what: Any) -> str:
        """Create a container and return its id. Raises NameTaken, NotFound (no such image), NoCapacity, Rejected."""

        def create(client: Any) -> str:
            config = client.create_host_config(**host)
            return str(client.create_container(name=name, host_config=config, **what)["Id"])

        return self._ask(_SLOW, create, f"the container {name}")

    def start(self, container: str) -> None:
        """Start a container; one that runs is left alone."""
        self._ask(_SLOW, lambda client: client.start(container), "the container")

    def remove(self, container: str) -> None:
        """End and remove a container with its volumes that have no name; one that is not there is removed."""
        try:
            self._ask(_SLOW, lambda client: client.remove_container(container, force=True, v=True))
        except (NotFound, NameTaken):
            pass  # gone, or somebody else is removing it

    def write(self, container: str, archive: bytes, at: str = "/") -> None:
        """Unpack a tar archive at a folder of a container, as root."""
        if not self._ask(_SLOW, lambda client: client.put_archive(container, at, archive)):
            raise Transient("The container engine did not take the instance's own files.")

    def read(self, container: str, path: str) -> bytes:
        """Return a small file of a container. Raises NotFound."""

        def read(client: Any) -> bytes:
            chunks, _ = client.get_archive(container, path)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                file = archive.extractfile(archive.getmembers()[0])
                return file.read(1 << 20) if file else b""

        return self._ask(_QUICK, read)

    def execute(self, container: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command in a container that runs, as its user; return its exit status and what it said."""

        def execute(client: Any) -> tuple[int, str]:
            made = client.exec_create(container, list(command))["Id"]
            said = client.exec_start(made).decode(errors="replace")
            return int(client.exec_inspect(made)["ExitCode"]), said

        return self._ask(_QUICK, execute, "the command")

    def ownership(self, container: str, path: str) -> tuple[int, int]:
        """Return the number of a file's or folder's user, as the container knows it, and its permission bits.
        The container need not run; Podman then tells of its user, whoever it is. Raises NotFound."""

        def look(client: Any) -> tuple[int, int]:
            # The SDK cannot stop reading: of what may be a large folder only the first entry is wanted.
            url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
            plain = {"Accept-Encoding": "identity"}
            with client.get(url, params={"path": path}, headers=plain, stream=True, timeout=_QUICK) as answer:
                if answer.status_code == 404:
                    raise NotFound(f"There is no {path} in the container.")
                answer.raise_for_status()
                try:
                    with tarfile.open(fileobj=answer.raw, mode="r|") as archive:
                        entry = archive.next()
                except tarfile.TarError:
                    entry = None
            if entry is None:
                raise Transient(f"The container engine does not tell whose {path} is.")
            return entry.uid, entry.mode & 0o777

        return self._ask(_QUICK, look)

    def make_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make a volume, or find the one of that name; return the labels it has."""
        made = self._ask(
            _SLOW, lambda client: client.create_volume(name, labels=dict(labels)), f"the volume {name}"
        )
        return dict(made.get("Labels") or {})

    def volumes(self, label: str) -> dict[str, dict[str, str]]:
        """Return the labels of all volumes, by name, that carry this one (``name`` or ``name=value``)."""
        # One at a time: of several, Podman takes any where Docker takes all.
        listed = self._ask(_QUICK, lambda client: client.volumes(filters={"label": [label]}))
        return {one["Name"]: dict(one.get("Labels") or {}) for one in listed.get("Volumes") or ()}

    def _ask(self, seconds: int, call: Callable[[Any], T], what: str = "") -> T:
        try:
            self._knock()
            client = self._clients.get(seconds)
            if client is None:
                client = docker.APIClient(base_url=self.url, timeout=seconds)
                client = self._clients.setdefault(seconds, client)
            return call(client)
        except APIError as error:
            status = error.response.status_code if error.response is not None else 0
            raise _explained(status, str(error.explanation or error), what) from error
        except requests.exceptions.Timeout as error:
            raise TimedOut(
                f"The container engine at {self.url} did not answer within {seconds} s.",
                remedy="Look at its load and its log.",
            ) from error
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise self._unreachable(error) from error

    def _knock(self) -> None:
        """Raise OSError when nobody answers: the SDK then leaves its socket open, and hides why."""
        if self.url.startswith("unix://"):
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(_QUICK)
                door.connect(self.url.removeprefix("unix://"))

    def _unreachable(self, error: Exception) -> GridcloudError:
        if isinstance(error, PermissionError):
            return Forbidden(
                f"The container engine at {self.url} does not let this user in.",
                remedy="Add the user to the socket's group, or run a rootless engine of the user's own.",
            )
        return Unreachable(
            f"No container engine answers at {self.url}.",
            remedy="Start it (`systemctl start docker`, or `systemctl --user start podman.socket`), or set 'engine'.",
        )


def find_engine() -> str:
    """Return the engine's URL that the environment or the usual sockets tell, "" when there is none."""
    if url := os.environ.get("DOCKER_HOST"):
        return url
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for path in (
        f"{own}/podman/podman.sock",
        f"{own}/docker.sock",
        "/run/podman/podman.sock",
        "/run/docker.sock",
    ):
        try:
            if stat.S_ISSOCK(Path(path).stat().st_mode) and os.access(path, os.R_OK | os.W_OK):
                return f"unix://{path}"
        except OSError:
            continue
    return ""


def make_archive(folders: Sequence[str], uid: int, gid: int, notes: Mapping[str, str]) -> bytes:
    """Return a tar archive of folders that belong to a user alone, and of readable files of root's."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for folder in folders:
            entry = tarfile.TarInfo(folder.strip("/"))
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, uid, gid
            archive.addfile(entry)
        for name, text in notes.items():
            entry = tarfile.TarInfo(name.strip("/"))
            entry.mode, entry.size = 0o644, len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
        end = archive.offset
    # No more than the two blocks that end an archive: Podman's reader is gone before it has read padding beyond them.
    return held.getvalue()[: end + 2 * tarfile.BLOCKSIZE]


def _tagged(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


def _explained(status: int, said: str, what: str) -> GridcloudError:
    """Translate what an engine says. Engines give few codes: where there is none, its words decide."""
    low, subject = said.lower(), what or "what was asked"
    message = f"The container engine refuses {subject}: {said.strip()}"
    if "no space left" in low:
        return NoCapacity(message, remedy="Remove unused images and containers (`system prune`).")
    if "already in use" in low or "already in progress" in low:
        return NameTaken(message)
    denied = ("denied", "unauthorized", "authentication required")
    if status in (401, 403) or (status != 409 and any(word in low for word in denied) and "image" in subject):
        return Rejected(message, remedy="Log the engine in where the image is kept, or name another image.")
    if "unknown user" in low or "unable to find user" in low:
        return Rejected(
            f"The image has no such user: {said.strip()}", remedy="Set 'user' to one it has, or to a number."
        )
    if status == 404 or "manifest unknown" in low or "no such image" in low:
        return NotFound(message)
    if "cannot allocate memory" in low or "resource temporarily unavailable" in low:
        return NoCapacity(message)
    if status == 400:
        return InvalidRequest(message)
    return Transient(message)
