"""The verbs, for plain programs: an event loop of its own thread behind each call."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import ValidationError

from gridcloud.agents.model import Caps
from gridcloud.client.asynchronous import AsyncClient
from gridcloud.client.blocking_grid import BlockingGrid
from gridcloud.client.blocking_jobs import BlockingJobs
from gridcloud.client.opening import connect_async
from gridcloud.client.process import RemoteProcess
from gridcloud.clusters.model import FINAL as CLUSTER_FINAL
from gridcloud.clusters.model import Cluster, ClusterRequest
from gridcloud.errors import InvalidRequest, Unavailable
from gridcloud.instances.model import Discovery, Finding, Instance, Request
from gridcloud.service.agent_documents import Invitation, Machine
from gridcloud.service.budget_documents import Budgets, Ledger
from gridcloud.service.documents import Event, ForgottenProvider, Offers, Provider, Trouble, Version
from gridcloud.sessions.model import Session

__all__ = ["Client", "connect"]

Result = TypeVar("Result")

TIDYING = 60.0
"""Seconds to wait for what is left of an interrupted call."""


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    config: Path | None = None,
    data: Path | None = None,
    alone: bool = False,
    ca: Path | None = None,
) -> Client:
    """Return a client of the service at a URL, of the one on this computer, or of one within this process.

    The arguments are those of `connect_async`. Use it in a ``with`` block, or close it. Raises Unreachable,
    InvalidSettings.
    """
    context = start_blocking_portal("asyncio")
    portal = context.__enter__()
    try:
        return Client(
            portal.call(
                lambda: connect_async(url, token=token, config=config, data=data, alone=alone, ca=ca)
            ),
            portal,
            context,
        )
    except BaseException:
        context.__exit__(None, None, None)
        raise


class Client:
    """Talks to the owner of a store. Every method raises GridcloudError, as the service does."""

    def __init__(
        self, client: AsyncClient, portal: BlockingPortal, context: AbstractContextManager[BlockingPortal]
    ) -> None:
        self._client = client
        self._portal = portal
        self._context: AbstractContextManager[BlockingPortal] | None = context
        self.jobs = BlockingJobs(client.jobs, portal)
        self.grid = BlockingGrid(client.grid, portal)
        """The grid of institutions, for administrators."""

    def version(self) -> Version:
        """Return who answers, and who it takes us for."""
        return self._portal.call(self._client.version)

    def offers(self, request: Request | None = None, **fields: Any) -> Offers:
        """Ask every provider at once what it can give for a request, or for its ``fields`` (``memory="4GiB"``)."""
        return self._portal.call(self._client.offers, _request(request, fields))

    def start(
        self,
        request: Request | None = None,
        *,
        name: str = "",
        configure: Sequence[Mapping[str, Any]] = (),
        before_end: Sequence[str] = (),
        on_event: Callable[[Event], None] | None = None,
        **fields: Any,
    ) -> Instance:
        """Get an instance and return it once it is ready; what is interrupted or fails leaves none behind."""
        wanted = _request(request, fields)

        async def work() -> Instance:
            instance = await self._client.start(wanted, name=name, configure=configure, before_end=before_end)
            try:
                return await self._client.wait_ready(instance.id, on_event)
            except BaseException:
                with CancelScope(shield=True):
                    await self._client.stop(instance.id)
                raise

        return self._call(work)

    def instances(self, *, all: bool = False) -> list[Instance]:
        """Return instances, oldest first; ended ones too with ``all``."""
        return self._portal.call(lambda: self._client.instances(all=all))

    def instance(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound."""
        return self._portal.call(self._client.instance, instance_id)

    def stop(self, instance_id: str) -> Instance:
        """End an instance, and return once nothing is left of it."""

        async def work() -> Instance:
            await self._client.stop(instance_id)
            return await self._client.wait_ended(instance_id)

        return self._portal.call(work)

    def extend(
        self, instance_id: str, *, expires: datetime | None = None, time: int | None = None
    ) -> Instance:
        """Move an instance's expiry: to a time, or to so many seconds from now."""
        return self._portal.call(lambda: self._client.extend(instance_id, expires=expires, time=time))

    def events(self, instance_id: str, *, follow: bool = False, after: int = 0) -> Iterator[Event]:
        """Yield an instance's story; with ``follow`` until it has ended."""
        source = self._client.instance_events(instance_id, follow=follow, after=after)

        async def step() -> Event | None:
            return await anext(source, None)

        while (event := self._portal.call(step)) is not None:
            yield event

    def run(
        self,
        instance_id: str,
        words: Sequence[str],
        *,
        input: bytes = b"",
        environment: Mapping[str, str] | None = None,
        directory: str = "",
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> tuple[int, bytes, bytes]:
        """Run a command on a ready instance; return its exit code, standard output and standard error.

        With ``on_output`` each chunk is told as it comes ('stdout' or 'stderr', bytes), and the two are empty.
        """

        async def feed(process: RemoteProcess) -> None:
            await process.write(input)
            await process.close_input()

        async def work() -> tuple[int, bytes, bytes]:
            feeding: asyncio.Task[None] | None = None
            gathered = {"stdout": bytearray(), "stderr": bytearray()}
            process = await self._client.command(
                instance_id, words, environment=environment, directory=directory
            )
            try:
                feeding = asyncio.create_task(feed(process))
                async for stream, chunk in process.output():
                    if on_output is not None:
                        on_output(stream, chunk)
                    else:
                        gathered[stream] += chunk
                await feeding
                return process.code, bytes(gathered["stdout"]), bytes(gathered["stderr"])
            finally:
                await process.close()
                if feeding is not None:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)

        return self._call(work)

    def put(self, instance_id: str, source: Path | str, target: str) -> None:
        """Copy a file or folder to ``target`` on a ready instance."""
        self._portal.call(self._client.put, instance_id, Path(source), target)

    def get(self, instance_id: str, source: str, target: Path | str) -> None:
        """Copy a file or folder from a ready instance to ``target`` here."""
        self._portal.call(self._client.get, instance_id, source, Path(target))

    def sessions(self, *, all: bool = False) -> list[Session]:
        """Return sessions, oldest first; ended ones too with ``all``."""
        return self._portal.call(lambda: self._client.sessions(all=all))

    def extend_session(
        self, session_id: str, *, time: int | None = None, after: datetime | None = None
    ) -> Instance:
        """Have a running session live longer: for so many seconds from now, or by as much as the configuration says;
        return its instance, with its new end. ``after``: the end that one was told of, to be moved once."""
        return self._portal.call(lambda: self._client.extend_session(session_id, time=time, after=after))

    def start_cluster(
        self, name: str, *, on_event: Callable[[Event], None] | None = None, **fields: Any
    ) -> Cluster:
        """Get a Kubernetes cluster (``nodes=3, on="campus"``) and return it once it is ready; what is interrupted or
        fails leaves none behind."""
        wanted = _cluster_request(fields)

        async def work() -> Cluster:
            cluster = await self._client.start_cluster(name, wanted)
            try:
                cluster = await self._client.wait_cluster(cluster.id, on_event)
            except BaseException:
                with CancelScope(shield=True):
                    await self._client.stop_cluster(cluster.id)
                raise
            if cluster.state in CLUSTER_FINAL:
                raise Unavailable(f"The cluster {name} could not be had: {cluster.detail}")
            return cluster

        return self._call(work)

    def clusters(self, *, all: bool = False) -> list[Cluster]:
        """Return clusters, oldest first; ended ones too with ``all``."""
        return self._portal.call(lambda: self._client.clusters(all=all))

    def cluster(self, cluster_id: str) -> Cluster:
        """Return one cluster by its id, or one's own by its name. Raises NotFound."""
        return self._portal.call(self._client.cluster, cluster_id)

    def scale_cluster(self, cluster_id: str, nodes: int) -> Cluster:
        """Give a cluster so many nodes, and return it once it has them or keeps those it had."""

        async def work() -> Cluster:
            return await self._client.wait_cluster((await self._client.scale_cluster(cluster_id, nodes)).id)

        return self._call(work)

    def stop_cluster(self, cluster_id: str) -> Cluster:
        """End a cluster, and return once nothing is left of it."""

        async def work() -> Cluster:
            return await self._client.wait_cluster((await self._client.stop_cluster(cluster_id)).id)

        return self._call(work)

    def cluster_access(self, cluster_id: str) -> str:
        """Return the kubeconfig of a cluster that is ready: a secret."""
        return self._portal.call(self._client.cluster_access, cluster_id)

    def invite_agent(
        self,
        name: str,
        *,
        time: int = 86400,
        caps: Caps | None = None,
        labels: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
    ) -> Invitation:
        """Invite a machine that is to dial in, within ``time`` seconds; the token is in the answer, this once."""
        return self._portal.call(
            lambda: self._client.agents.invite(name, time=time, caps=caps, labels=labels, addresses=addresses)
        )

    def agents(self, *, all: bool = False) -> list[Machine]:
        """Return the machines that dial in, oldest first; with ``all`` those that were removed too."""
        return self._portal.call(lambda: self._client.agents.all(all=all))

    def agent(self, name: str) -> Machine:
        """Return one machine that dials in. Raises NotFound."""
        return self._portal.call(self._client.agents.get, name)

    def label_agent(self, name: str, labels: Mapping[str, str | None]) -> Machine:
        """Set labels of a machine that dials in; None takes one away."""
        return self._portal.call(self._client.agents.label, name, labels)

    def drain_agent(self, name: str, *, draining: bool = True) -> Machine:
        """Give a machine that dials in nothing new, or again what it can do."""
        return self._portal.call(lambda: self._client.agents.drain(name, draining=draining))

    def remove_agent(self, name: str) -> None:
        """Have a machine that dials in end everything and leave."""
        self._portal.call(self._client.agents.remove, name)

    def budgets(self, *, user: str | None = None) -> Budgets:
        """Return how the budgets stand that concern oneself; all, or those of a user, for an administrator."""
        return self._portal.call(lambda: self._client.budgets(user=user))

    def budget(self, name: str, *, user: str | None = None) -> Budgets:
        """Return how one budget stands, by provider and by instance. Raises NotFound."""
        return self._portal.call(lambda: self._client.budget(name, user=user))

    def ledger(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        user: str | None = None,
        project: str | None = None,
        provider: str | None = None,
    ) -> Ledger:
        """Return what every machine cost within a span: one's own, or everybody's for an administrator."""
        return self._portal.call(
            lambda: self._client.ledger(
                since=since, until=until, user=user, project=project, provider=provider
            )
        )

    def providers(self, *, images: bool = False) -> list[Provider]:
        """Return the configured providers."""
        return self._portal.call(lambda: self._client.providers(images=images))

    def discover_provider(self, name: str) -> Discovery:
        """Return the images, shapes, locations and networks of a provider. Raises InvalidRequest where it has none."""
        return self._portal.call(self._client.discover_provider, name)

    def check_provider(self, name: str) -> list[Finding]:
        """Try a provider without starting anything."""
        return self._portal.call(self._client.check_provider, name)

    def add_provider(self, name: str, entry: Mapping[str, Any]) -> Provider:
        """Add a provider to the service's configuration file."""
        return self._portal.call(lambda: self._client.add_provider(name, entry))

    def remove_provider(self, name: str) -> None:
        """Remove a provider from the service's configuration file."""
        self._portal.call(self._client.remove_provider, name)

    def forget_provider(self, name: str, *, give_up: bool = False) -> ForgottenProvider:
        """Have a provider that left the configuration never asked again. Raises InvalidRequest while something may be
        left there, unless that is given up: the answer says what."""
        return self._portal.call(lambda: self._client.forget_provider(name, give_up=give_up))

    def examine(self) -> list[Trouble]:
        """Compare what providers hold with what the store knows."""
        return self._portal.call(self._client.examine)

    def mend(self) -> list[Trouble]:
        """Remove what nothing accounts for."""
        return self._portal.call(self._client.mend)

    def _call(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do the work; when this thread is interrupted (Ctrl-C), cancel it and wait until it has tidied up."""
        over = threading.Event()

        async def whole() -> Result:
            try:
                return await work()
            finally:
                over.set()

        future = self._portal.start_task_soon(whole)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                over.wait(TIDYING)
            raise

    def close(self) -> None:
        """Let go; instances and sessions live on. May be called twice."""
        context, self._context = self._context, None
        if context is not None:
            try:
                self._portal.call(self._client.close)
            finally:
                context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_SIZES = frozenset({"memory", "disk", "gpu_memory"})


def _request(request: Request | None, fields: Mapping[str, Any]) -> Request:
    """Return a request with these fields. Raises InvalidRequest."""
    before = request.model_dump(exclude_unset=True) if request is not None else {}
    written = {name: _spell(value) if name in _SIZES else value for name, value in fields.items()}
    try:
        return Request.model_validate({**before, **written})
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}."
            for fault in error.errors(include_url=False)
        ]
        raise InvalidRequest(" ".join(told)) from None


def _cluster_request(fields: Mapping[str, Any]) -> ClusterRequest:
    """Return a request for a cluster with these fields. Raises InvalidRequest."""
    try:
        return ClusterRequest.model_validate(dict(fields))
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}."
            for fault in error.errors(include_url=False)
        ]
        raise InvalidRequest(" ".join(told)) from None


def _spell(value: Any) -> Any:
    """Spell a small number as a person writes it, whom the request tells that ``memory=4`` means four bytes."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1024**2:
        return str(math.ceil(value))
    return value
