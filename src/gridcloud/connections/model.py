"""How to reach an instance: frozen records that a driver gives and that `connections` opens.

An address holds no secret. Credentials are named (``key``, ``principal``), never carried.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Address",
    "ContainerAddress",
    "Endpoint",
    "LocalAddress",
    "PodAddress",
    "Port",
    "Record",
    "SSHAddress",
    "Socket",
]


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalAddress(Record):
    """This computer."""

    via: Literal["local"] = "local"
    directory: str = Field(
        description="the instance's own folder, absolute; also the default working directory"
    )
    home: str = Field(
        default="",
        description="where the owner's own files lie, kept between instances; empty: the same folder",
    )
    user: str = Field(
        default="", description="OS user that commands run as; empty: the user gridcloud runs as"
    )
    enter: tuple[str, ...] = Field(
        default=(),
        description="command put before every command: takes its place within the instance's limits",
    )


class SSHAddress(Record):
    """A machine with an SSH server."""

    via: Literal["ssh"] = "ssh"
    host: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str
    host_keys: tuple[str, ...] = Field(
        default=(), description="accepted host keys, as public key lines ('ssh-ed25519 AAAA…'); pinned"
    )
    host_authorities: tuple[str, ...] = Field(
        default=(), description="public keys of authorities whose host certificates are accepted"
    )
    key: str = Field(
        default="",
        description="reference to the private key (file:PATH, env:NAME, agent:); empty: the service's own key",
    )
    principal: str = Field(
        default="",
        description="when set, log in with a short-lived user certificate of our own authority for this principal",
    )
    jump: SSHAddress | None = Field(default=None, description="machine to go through")
    socket: str = Field(
        default="",
        description="Unix socket here that leads to it, where it dialled us; host is then its name alone",
    )
    directory: str = Field(default="", description="the instance's own folder there; empty: the login folder")
    home: str = Field(
        default="",
        description="where the owner's own files lie, kept between instances; empty: the login folder",
    )
    enter: tuple[str, ...] = Field(default=(), description="as for LocalAddress")


class ContainerAddress(Record):
    """A container of an engine that speaks the Docker API (Docker, Podman)."""

    via: Literal["container"] = "container"
    engine: str = Field(description="URL of the engine's API: unix:///run/docker.sock, tcp://…")
    container: str = Field(description="the container's id")
    user: str = Field(default="", description="user within the container; empty: the image's")
    directory: str = Field(default="", description="working directory within; empty: the image's")
    home: str = Field(
        default="",
        description="where the owner's own files lie, kept between instances; empty: the same folder",
    )


class PodAddress(Record):
    """A container of a Kubernetes pod, reached through the API of its cluster. Credentials stay in the kubeconfig."""

    via: Literal["pod"] = "pod"
    kubeconfig: str = Field(
        default="",
        description="path of the kubeconfig; in-cluster: our own pod's service account; empty: the usual places",
    )
    context: str = Field(default="", description="context in the kubeconfig; empty: its only one")
    namespace: str = "default"
    pod: str = Field(description="the pod's name")
    uid: str = Field(default="", description="the pod's uid: another pod of that name is not ours")
    container: str = Field(default="", description="container within the pod; empty: its first")
    directory: str = Field(default="", description="working directory within; empty: /")
    home: str = Field(
        default="",
        description="where the owner's own files lie, kept between instances; empty: the same folder",
    )


Address = Annotated[LocalAddress | SSHAddress | ContainerAddress | PodAddress, Field(discriminator="via")]


class Port(Record):
    """A TCP port. ``port=0`` asks for any free one where something is to listen."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)


class Socket(Record):
    """A Unix domain socket."""

    path: str


Endpoint = Port | Socket
