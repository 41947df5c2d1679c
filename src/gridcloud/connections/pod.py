"""A connection into a pod, through the API of its cluster: nothing of the pod is published to a network.

One exec runs a relay program there, over which commands (`relay_commands`) and ports in both directions (`multiplexer`)
go; files go as a tar stream through `tar` there. The pod's image needs python3 and a shell.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
from typing import Self

from gridcloud.connections import multiplexer, relay_commands
from gridcloud.connections.cluster import Cluster
from gridcloud.connections.container_ports import BOOT, Relaying
from gridcloud.connections.container_process import drain
from gridcloud.connections.driver import Command, Process
from gridcloud.connections.environment import check_command
from gridcloud.connections.model import PodAddress
from gridcloud.connections.pod_process import PodProcess
from gridcloud.connections.pod_stream import PodStream
from gridcloud.connections.relayed import RelayedConnection
from gridcloud.errors import ConnectionLost, GridcloudError, NotFound, Rejected, Transient

__all__ = ["PodConnection"]

log = logging.getLogger(__name__)

BEAT = 20
"""Seconds between two words to the relay, so that each end notices when the other has gone without one."""

PATIENCE = 30
"""Seconds that a shell there may take to say its first word."""

ENTER = 'cd "$1" || exit 125; command -v python3 >/dev/null || exit 127; echo ready; exec python3 -c "$2"'


class PodConnection(RelayedConnection):
    """A connection to one running pod. `open` makes it."""

    def __init__(self, address: PodAddress, cluster: Cluster) -> None:
        super().__init__(f"pod {address.namespace}/{address.pod}")
        self.address = address
        self._cluster = cluster
        self._stream: PodStream | None = None
        self._relaying: Relaying | None = None
        self._beating: asyncio.Task[None] | None = None
        self._echo: multiplexer.Streams | None = None
        self._asking = asyncio.Lock()
        self._processes: set[PodProcess] = set()
        self._closed = False

    @classmethod
    async def open(cls, address: PodAddress) -> Self:
        """Return a connection to a pod that runs. Raises ConnectionLost when it is gone, Unreachable, Forbidden,
        InvalidSettings, Rejected when its image has no python3."""
        connection = cls(address, Cluster(address.kubeconfig, address.context))
        try:
            await connection._begin()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def start(self, command: Command) -> Process:
        check_command(command.words, command.environment)
        relaying = await self._relay()
        directory = posixpath.join(self.address.directory or "/", command.directory)
        process = await PodProcess.start(relaying, command, directory, self._lost)
        self._processes.add(process)
        process.on_close = self._processes.discard
        return process

    async def check(self) -> None:
        await self._relay()
        try:
            async with asyncio.timeout(10):
                await self._beat()
        except TimeoutError as error:
            raise ConnectionLost(f"Nothing in {self._name} answers.") from error

    async def wait_closed(self) -> None:
        """Return when it has ended, for whatever reason."""
        if self._relaying is not None:
            await self._relaying.wait_ended()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        await self._close_forwards()
        if self._echo is not None:
            self._echo[1].close()
        await asyncio.gather(*(process.abandon() for process in list(self._processes)))
        if self._relaying is not None:
            await self._quietly(self._relaying.end())
        if self._stream is not None:
            await self._stream.abandon()
        await self._cluster.close()

    async def _begin(self) -> None:
        if why := await self._why_stopped():
            raise ConnectionLost(why)
        command = ("/bin/sh", "-c", ENTER, "sh", self.address.directory or "/", BOOT)
        query = [("command", word) for word in command]
        query += [(name, "true") for name in ("stdin", "stdout", "stderr")]
        query += [("container", self.address.container)]
        place = f"/api/v1/namespaces/{self.address.namespace}/pods/{self.address.pod}/exec"
        try:
            self._stream = PodStream(await self._cluster.stream(place, query), self._name)
        except (NotFound, Transient) as error:
            raise ConnectionLost(f"{self._name} cannot be entered: {error.message}") from error
        try:
            async with asyncio.timeout(PATIENCE):
                if await self._stream.first_line() != b"ready\n":
                    raise await self._refusal(self._stream)
        except TimeoutError as error:
            raise ConnectionLost(f"{self._name} was entered, and says nothing.") from error
        modules = (multiplexer, relay_commands)
        self._relaying = Relaying(self._stream, f"The image of {self._name}", modules)
        await self._relaying.begin()
        self._echo = await self._relaying.dial({"channel": "echo"})
        self._beating = asyncio.ensure_future(self._keep_beating())

    async def _refusal(self, stream: PodStream) -> GridcloudError:
        """Why the relay could not even begin."""
        said = await drain(stream.stderr())
        code = await stream.wait()
        if code == 125:
            return NotFound(f"There is no folder {self.address.directory!r} in {self._name}.")
        lacks = "python3" if code == 127 else "/bin/sh"
        return Rejected(
            f"The image of {self._name} cannot be used: it lacks {lacks} ({said.strip() or f'exit code {code}'}).",
            remedy="Use an image with a shell and python3 (3.8 or newer) in its PATH.",
        )

    async def _relay(self) -> Relaying:
        if self._closed:
            raise ConnectionLost(f"The connection to {self._name} is closed.")
        if self._relaying is None or not self._relaying.alive:
            raise ConnectionLost(await self._why_lost())
        return self._relaying

    @property
    def _lost(self) -> str:
        return f"The connection to {self._name} was lost while a command ran there."

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                async with asyncio.timeout(2 * BEAT):
                    await self._beat()
            except (TimeoutError, ConnectionLost):
                log.info("%s does not answer any more", self._name)
                if self._stream is not None:
                    await self._stream.abandon()
                return

    async def _beat(self) -> None:
        """Say a word to the relay, and wait for it to come back. Raises ConnectionLost."""
        said = b""
        async with self._asking:
            if self._echo is not None:
                try:
                    self._echo[1].write(b".")
                    said = await self._echo[0].read(1)
                except OSError:
                    pass  # cut, and told below
        if not said:
            raise ConnectionLost(await self._why_lost())

    async def _why_stopped(self) -> str:
        """Return why the pod does not run, "" when it does. Raises Unreachable, Forbidden, InvalidSettings."""
        try:
            place = f"/api/v1/namespaces/{self.address.namespace}/pods/{self.address.pod}"
            pod = await self._cluster.call("GET", place, seconds=10)
        except NotFound:
            return f"{self._name} is gone."
        if self.address.uid and pod["metadata"]["uid"] != self.address.uid:
            return f"{self._name} is gone; another pod has its name."
        if pod["metadata"].get("deletionTimestamp"):
            return f"{self._name} is being removed."
        phase = pod["status"].get("phase", "Unknown")
        if phase == "Running":
            return ""
        why = pod["status"].get("reason") or pod["status"].get("message") or ""
        return f"{self._name} does not run: it is {phase}{f' ({why})' if why else ''}."

    async def _why_lost(self) -> str:
        try:
            return await self._why_stopped() or f"The relay in {self._name} has ended."
        except GridcloudError as error:
            return f"{self._name} cannot be asked for: {error.message}"
