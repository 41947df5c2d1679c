"""Ansible's way to the machine: every command and file goes through the connection that gridcloud holds.

Runs within Ansible. What it asks for is done by `gridcloud.drivers.configurers.ansible_door`, which also describes the
protocol; keys, host keys and jump hosts stay there.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase

__all__ = ["Connection"]

DOCUMENTATION = """
    name: gridcloud
    author: gridcloud contributors
    short_description: act through a connection of gridcloud
    description: Runs commands and moves files through the process of gridcloud that configures the machine.
    options:
      door:
        description: path of the Unix socket to ask at
        type: path
        vars: [{name: gridcloud_door}]
"""

_FRAME = struct.Struct(">cI")
_BLOCK = 1 << 16


class Connection(ConnectionBase):  # type: ignore[misc]  # ansible has no types
    """One machine, through one socket; each command is a visit of its own."""

    transport = "gridcloud"
    has_pipelining = True
    has_tty = False

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(
        self, cmd: Any, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command line that Ansible has quoted; return its exit code, output and error output."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        with self._visit({"do": "run", "line": to_text(cmd)}) as visit:
            asked = bool(sudoable and self.become and self.become.expect_prompt())
            if not asked:
                _send_input(visit, in_data)
            output = {b"o": bytearray(), b"e": bytearray()}
            for kind, data in _frames(visit):
                if kind == b"x":
                    return int(data), bytes(output[b"o"]), bytes(output[b"e"])
                output[kind] += data
                if asked and self._answer(visit, output):
                    asked = False
                    _send_input(visit, in_data)
        raise AnsibleConnectionFailure("gridcloud hung up before the command ended")

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file to the machine."""
        super().put_file(in_path, out_path)
        self._move({"do": "put", "source": to_text(in_path), "target": to_text(out_path)})

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the machine."""
        super().fetch_file(in_path, out_path)
        self._move({"do": "get", "source": to_text(in_path), "target": to_text(out_path)})

    def reset(self) -> None:
        """Do nothing: no visit outlives its command."""

    def close(self) -> None:
        """Forget it; there is nothing to end."""
        self._connected = False

    def _move(self, order: dict[str, str]) -> None:
        with self._visit(order) as visit:
            for kind, _ in _frames(visit):
                if kind == b"x":
                    return
        raise AnsibleConnectionFailure("gridcloud hung up before the file was there")

    def _answer(self, visit: socket.socket, output: dict[bytes, bytearray]) -> bool:
        """Give the password when it is asked for; tell whether nothing more is to be answered."""
        if self.become is None:
            return True
        if any(self.become.check_password_prompt(bytes(said)) for said in output.values()):
            for said in output.values():
                said.clear()
            _send(visit, b"i", to_bytes(self.become.get_option("become_pass") or "") + b"\n")
            return True
        return bool(self.become.check_success(bytes(output[b"o"])))

    @contextmanager
    def _visit(self, order: dict[str, str]) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visit:
            try:
                visit.connect(self.get_option("door"))
                _send(visit, b"q", json.dumps(order).encode())
                yield visit
            except OSError as error:
                raise AnsibleConnectionFailure(f"gridcloud does not answer: {error}") from error


def _send_input(visit: socket.socket, data: bytes | None) -> None:
    for start in range(0, len(data or b""), _BLOCK):
        _send(visit, b"i", (data or b"")[start : start + _BLOCK])
    _send(visit, b"d", b"")


def _send(visit: socket.socket, kind: bytes, data: bytes) -> None:
    visit.sendall(_FRAME.pack(kind, len(data)) + data)


def _frames(visit: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    with visit.makefile("rb") as stream:
        while len(head := stream.read(_FRAME.size)) == _FRAME.size:
            kind, length = _FRAME.unpack(head)
            data = stream.read(length)
            if kind == b"u":
                raise AnsibleConnectionFailure(data.decode(errors="replace"))
            if kind == b"n":
                raise AnsibleFileNotFound(data.decode(errors="replace"))
            if kind == b"f":
                raise AnsibleError(data.decode(errors="replace"))
            yield kind, data
