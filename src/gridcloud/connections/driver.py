"""The contract of a connection: act on one instance, whatever lies between.

Every implementation (local, ssh, container; an agent that dialled us) passes
`gridcloud.testing.connections.ConnectionContract`. The address of an instance says which one it is;
`gridcloud.connections.open` makes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gridcloud.connections.model import Endpoint

if TYPE_CHECKING:  # asyncssh takes long to import, and most who read the contract need none of it
    from asyncssh import SSHCertificate, SSHKey, SSHKeyPair

__all__ = [
    "Command",
    "Connection",
    "Credentials",
    "Ending",
    "ForkServing",
    "Forward",
    "Process",
    "Progress",
    "Resizable",
    "Superseding",
    "TerminalSize",
]

Progress = Callable[[str, int, int], None]
"""Called with (path, bytes done, bytes in all) while files move; in all is -1 when unknown."""


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """A terminal's size in characters."""

    columns: int = 80
    rows: int = 24


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a vector of words: no shell reads it, on this side or the other.

    ``environment`` is added to the other side's own. Its values reach the process literally, whatever
    bytes they hold save NUL, and never appear in an argument vector on either side, for they may be secret.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    """Working directory there; empty: the instance's own folder."""
    terminal: TerminalSize | None = None
    """Run within a pseudo-terminal of this size; standard error is then part of standard output."""
    raw: bool = False
    """The terminal neither echoes nor gathers lines until the command has it do so."""


class Process(ABC):
    """A command that runs on an instance."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Write to standard input; waits while the other end does not read. Ignored once the process has ended."""

    @abstractmethod
    async def close_input(self) -> None:
        """Tell the process that no more input comes. May be called twice."""

    @abstractmethod
    def stdout(self) -> AsyncIterator[bytes]:
        """Yield standard output as it comes, in chunks of any size; to be consumed once."""

    @abstractmethod
    def stderr(self) -> AsyncIterator[bytes]:
        """Yield standard error as it comes; to be consumed once, at the same time as standard output."""

    @abstractmethod
    async def wait(self) -> int:
        """Return the exit code, 128 + n after signal n. May be called twice.

        Raises ConnectionLost if the connection ended first: the process's fate is then unknown.
        """

    @abstractmethod
    async def signal(self, name: str) -> None:
        """Send a signal ('TERM', 'INT', 'KILL', …) to the process and its children. Ended: nothing happens."""


@dataclass(slots=True)
class Forward:
    """An open forward. ``endpoint`` is where it listens: here for `Connection.forward`, there for `expose`."""

    endpoint: Endpoint
    close: Callable[[], Awaitable[None]]
    """Stop listening and cut what goes through. May be called twice."""


class Connection(ABC):
    """One way to one instance. Methods may run at the same time; all raise ConnectionLost when it is cut."""

    @abstractmethod
    async def start(self, command: Command) -> Process:
        """Start a command and return at once. What was started ends when the connection is closed,
        unless it has left its session (setsid).

        Raises NotFound when the working directory does not exist; a program that does not exist ends with 127.
        """

    @abstractmethod
    async def put(self, source: Path, target: str, progress: Progress | None = None) -> None:
        """Copy a file or folder from here to ``target`` there (relative: to the instance's own folder).

        ``target`` names the copy itself, not a folder to put it in; missing parents are made. File modes are
        kept. A file appears under its name only when it is complete. Symbolic links are copied as links inside
        a folder. Raises NotFound, StorageFull, Forbidden.
        """

    @abstractmethod
    async def get(self, source: str, target: Path, progress: Progress | None = None) -> None:
        """Copy a file or folder from there to ``target`` here, likewise. Nothing is written outside ``target``,
        whatever names the other side gives. Raises NotFound, StorageFull, Forbidden."""

    @abstractmethod
    async def forward(self, remote: Endpoint, local: Endpoint) -> Forward:
        """Listen on ``local`` here (loopback, any port by 0; or a socket) and carry what connects to ``remote``
        there. Raises PortTaken. That nothing listens on ``remote`` yet is no error: each connection is
        closed until something does."""

    @abstractmethod
    async def expose(self, local: Endpoint, remote: Endpoint) -> Forward:
        """Listen on ``remote`` there (its loopback, any port by 0; or a socket) and carry what connects to
        ``local`` here. Raises PortTaken."""

    @abstractmethod
    async def check(self) -> None:
        """Return within 10 seconds if the other side answers, else raise ConnectionLost."""

    @abstractmethod
    async def close(self) -> None:
        """Close it with all its forwards. May be called twice."""


@runtime_checkable
class Resizable(Protocol):
    """A process in a terminal whose size may change."""

    async def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size."""


@runtime_checkable
class ForkServing(Protocol):
    """A connection that can start some Python programs by forking a process that has them imported already."""

    async def fork(self, command: Command, log: str) -> int | None:
        """Start ``command`` detached, in a session of its own, output appended to the file ``log``; return its
        process id there, or None when no fork server has this program (the caller then starts it plainly)."""


@runtime_checkable
class Ending(Protocol):
    """A connection that notices by itself when it has ended, black holes included."""

    async def wait_closed(self) -> None:
        """Return when it has ended, for whatever reason."""


@runtime_checkable
class Superseding(Protocol):
    """A connection whose lost predecessor may linger at the other side, holding ports there."""

    async def supersede(self, earlier: Connection) -> None:
        """End at the other side what ``earlier``, lost, left of itself."""


class Credentials(Protocol):
    """Where keys come from. Addresses name them; only what opens a connection sees them."""

    async def private_key(self, reference: str) -> SSHKey | SSHKeyPair:
        """Return the private key for a reference (file:PATH, env:NAME, agent:; empty: the service's own key).

        Raises NotFound when there is none, Forbidden when it may not be read.
        """

    async def user_certificate(self, principal: str) -> tuple[SSHKey, SSHCertificate]:
        """Return a key and a short-lived certificate of our own authority for ``principal``.

        Raises NotFound when this installation has no authority.
        """
