"""What answers at an SSH port and is no SSH server, or a hostile one: an error of ours, on one line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents.serving import Serving, serve
from gridcloud.connections.model import SSHAddress
from gridcloud.errors import Unreachable
from gridcloud.testing.connections import FileCredentials

Answering = Callable[[bytes], AbstractAsyncContextManager[int]]
DISCONNECT = b"\x01" + b"\0\0\0\x0b" + b"\0\0\0\x10" + b"bye\nWARNING all\x1b" + b"\0\0\0\0"
"""A message that ends a connection (RFC 4253, 11.1), with a line of its own in its reason."""


def packet(payload: bytes) -> bytes:
    """Return an SSH packet before any encryption (RFC 4253, 6)."""
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    return (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + b"\0" * padding


@pytest.fixture
def answering() -> Answering:
    @asynccontextmanager
    async def serve(said: bytes) -> AsyncIterator[int]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            await reader.read()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()[1]

    return serve


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-\xff\xfe\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000, b"SSH-2.0-x\r\n" + b"\xff" * 64,
     b"SSH-2.0-x\r\n" + packet(DISCONNECT), b"SSH-2.0-x\r\n" + packet(b"\x14" + b"\0" * 16 + b"\xff" * 8)],
    ids=["version in no alphabet", "another protocol", "no packet", "a reason of two lines", "no key exchange"],
)  # fmt: skip
async def test_a_hostile_server_is_one_that_is_not_reached(
    said: bytes, answering: Answering, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    key = asyncssh.generate_private_key("ssh-ed25519")
    for name in ("key", "authority"):
        key.write_private_key(folder / name)
    line = key.export_public_key().decode().strip()
    async with answering(said) as port:
        address = SSHAddress(host="127.0.0.1", port=port, user="ada", host_keys=(line,))
        with pytest.raises(Unreachable) as refused:
            await connections.open(address, FileCredentials(folder / "key", folder / "authority"))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-\xff\xfe\r\n", b"SSH-2.0-x\r\n" + packet(b"\x14" + b"\0" * 16 + b"\xff" * 8)],
    ids=["version in no alphabet", "no key exchange"],
)
async def test_a_hostile_client_ends_its_own_connection_alone(said: bytes) -> None:
    """What dials in, and what lends, is the server: before it knows who is there, it hears anything."""
    ours, theirs = socket.socketpair()
    key = asyncssh.generate_private_key("ssh-ed25519")
    serving = Serving(key, key.export_public_key().decode(), lambda name: None)
    with theirs:
        theirs.sendall(said)
        with pytest.raises(asyncssh.Error) as refused:
            await serve(ours, serving)
    assert str(refused.value).isprintable()
