"""A service within a test: its private socket, its HTTPS door with a certificate of the test's own, its callers."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gridcloud.client import AsyncClient
from gridcloud.client.wire import Wire
from gridcloud.identity import User
from gridcloud.instances.model import Instance, Request
from gridcloud.service.house import House
from gridcloud.service.process import owning
from gridcloud.settings import socket_path
from tests.houses import configure

__all__ = ["FAKE", "SMALL", "Service", "free_port", "make_certificate", "open_service"]

SMALL = Request(cpus=0.25, memory=64 << 20)

FAKE: dict[str, dict[str, Any]] = {"cloud": {"driver": "fake"}}


@dataclass(frozen=True, slots=True)
class Service:
    """A running service and the ways into it."""

    house: House
    socket: Path
    url: str
    certificate: Path

    def admin(self) -> AsyncClient:
        """Return a client at the private socket."""
        return AsyncClient(Wire(socket=self.socket))

    async def token(self, user: str, *, admin: bool = False, seconds: int | None = None) -> str:
        """Return the text of a new token."""
        if admin:
            await self.house.users.put(User(name=user, admin=True))
        return (await self.house.tokens.issue(user, seconds=seconds))[1].reveal()

    async def user(self, user: str, *, admin: bool = False) -> AsyncClient:
        """Return a client of a user at the HTTPS door."""
        token = await self.token(user, admin=admin)
        return AsyncClient(Wire(url=self.url, token=token, ca=self.certificate))

    def browser(self, token: str = "") -> aiohttp.ClientSession:
        """Return a plain HTTP client: at the private socket, or with a token at the HTTPS door."""
        if token:
            trusted = ssl.create_default_context(cafile=self.certificate)
            return aiohttp.ClientSession(
                self.url,
                connector=aiohttp.TCPConnector(ssl=trusted, resolver=aiohttp.ThreadedResolver()),
                headers={"Authorization": f"Bearer {token}"},
            )
        return aiohttp.ClientSession("http://gridcloud", connector=aiohttp.UnixConnector(str(self.socket)))

    async def obtain(self, owner: str = "ada", **asked: Any) -> Instance:
        """Return an instance of an owner once it is ready."""
        request = Request(**({"cpus": 0.25, "memory": 64 << 20} | asked))
        instance = await self.house.instances.submit(owner, request)
        return await self.house.instances.wait(instance.id)


@contextlib.asynccontextmanager
async def open_service(
    folder: Path, providers: Mapping[str, dict[str, Any]] = FAKE, **sections: dict[str, Any]
) -> AsyncIterator[Service]:
    """Run a service with both doors, over a data folder that it may find as an earlier one left it."""
    certificate, key = make_certificate(folder)
    port = free_port()
    door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)}
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = configure(folder, dict(providers), **({"service": door} | sections))
    async with owning(settings, data) as house:
        yield Service(house, socket_path(data), f"https://localhost:{port}", certificate)


def make_certificate(folder: Path, name: str = "localhost", address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Write a certificate that trusts itself and its key; return both files, the same each time."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate.exists():
        return certificate, key
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key


def free_port() -> int:
    """Return a port of 127.0.0.1 where nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
