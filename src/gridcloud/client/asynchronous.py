"""The verbs, for asyncio programs."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote
from weakref import WeakSet

from pydantic import BaseModel, ValidationError

from gridcloud.client.agents import Agents
from gridcloud.client.authority import AuthorityKeys
from gridcloud.client.configuration import Configuration
from gridcloud.client.grid import Grid
from gridcloud.client.jobs import Jobs
from gridcloud.client.operations import Operations
from gridcloud.client.process import RemoteProcess
from gridcloud.client.shares import Links
from gridcloud.client.wire import Wire
from gridcloud.clusters.model import FINAL as CLUSTER_FINAL
from gridcloud.clusters.model import Cluster, ClusterRequest
from gridcloud.clusters.model import State as ClusterState
from gridcloud.connections.model import Port
from gridcloud.errors import (
    ConfigurationFailed,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NoOffer,
    NotFound,
    StorageFull,
)
from gridcloud.instances.model import FINAL, Discovery, Finding, Instance, Reason, Request, State
from gridcloud.service import packing
from gridcloud.service.budget_documents import Budgets, Ledger
from gridcloud.service.cluster_documents import (
    ClusterAccess,
    ClusterProviders,
    Clusters,
    ClusterWish,
    Scaling,
)
from gridcloud.service.course_documents import CourseState
from gridcloud.service.documents import (
    Event,
    Extension,
    Findings,
    ForgetOrder,
    ForgottenProvider,
    Health,
    Instances,
    InstanceWish,
    Offers,
    Order,
    Provider,
    ProviderEntry,
    Providers,
    SessionExtension,
    Sessions,
    SessionWish,
    Size,
    Trouble,
    Version,
)
from gridcloud.service.stack_documents import Deployment, StackChange, Stacks, StackWish
from gridcloud.service.token_documents import IssuedToken, TokenInfo, Tokens, TokenWish
from gridcloud.sessions.model import Plan, Session
from gridcloud.stacks.model import Definition, Stack
from gridcloud.stacks.model import State as StackState

__all__ = ["AsyncClient"]

Document = TypeVar("Document", bound=BaseModel)


class AsyncClient:
    """Talks to the owner of a store. Every method raises GridcloudError, as the service does."""

    def __init__(self, wire: Wire, closing: Callable[[], Awaitable[None]] | None = None) -> None:
        self._wire = wire
        self._closing = closing
        self.agents = Agents(wire)
        """The machines that dial out, for administrators."""
        self.authority = AuthorityKeys(wire)
        """The SSH authority that lets the service into machines, for administrators."""
        self.configuration = Configuration(wire)
        self.operations = Operations(wire)
        self.jobs = Jobs(wire)
        """The configuration file and its history, for administrators."""
        self.shares = Links(wire)
        self.grid = Grid(wire)
        """The grid of institutions, for administrators."""
        self._processes: WeakSet[RemoteProcess] = WeakSet()

    @property
    def embedded(self) -> bool:
        """Whether this process is the owner itself: what it began goes on only while it lives."""
        return self._closing is not None

    async def version(self) -> Version:
        """Return who answers, and who it takes us for."""
        return await self._wire.ask("GET", "/version", Version)

    async def offers(self, request: Request) -> Offers:
        """Ask every provider at once what it can give; nothing is started."""
        return await self._wire.ask("POST", "/offers", Offers, request)

    # Instances -----------------------------------------------------------------------------------------------

    async def start(
        self,
        request: Request,
        *,
        name: str = "",
        owner: str | None = None,
        configure: Sequence[Mapping[str, Any]] = (),
        before_end: Sequence[str] = (),
        avoid: Sequence[str] = (),
    ) -> Instance:
        """Ask for an instance and return at once; `wait_ready` or `instance_events` tell the rest.

        ``before_end``: the words of a command that is run there before it ends. ``avoid``: ids of one's instances
        that were lost: an offer like theirs is taken last.
        """
        wish = _valid(
            InstanceWish,
            request=request,
            name=name,
            owner=owner,
            configure=[dict(entry) for entry in configure],
            before_end=list(before_end),
            avoid=list(avoid),
        )
        return await self._wire.ask("POST", "/instances", Instance, wish)

    async def instances(self, *, all: bool = False, owner: str | None = None) -> list[Instance]:
        """Return instances, oldest first; ended ones too with ``all``."""
        return (await self._wire.ask("GET", "/instances", Instances, all=all, owner=owner)).instances

    async def instance(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound."""
        return await self._wire.ask("GET", _path("instances", instance_id), Instance)

    async def stop(self, instance_id: str) -> Instance:
        """Have an instance end; return at once. May be called twice."""
        return await self._wire.ask("POST", _path("instances", instance_id, "stop"), Instance)

    async def extend(
        self, instance_id: str, *, expires: datetime | None = None, time: int | None = None
    ) -> Instance:
        """Move an instance's expiry: to a time, or to so many seconds from now."""
        extension = _valid(Extension, expires=expires, time=time)
        return await self._wire.ask("POST", _path("instances", instance_id, "extend"), Instance, extension)

    def instance_events(
        self, instance_id: str, *, follow: bool = False, after: int = 0
    ) -> AsyncIterator[Event]:
        """Yield an instance's story; with ``follow`` until it has ended. A cut stream resumes by itself."""
        return self._wire.events(_path("instances", instance_id, "events"), follow=follow, after=after)

    async def wait_ready(self, instance_id: str, on_event: Callable[[Event], None] | None = None) -> Instance:
        """Return the instance once it is ready, telling each event; raise what kept it from being so."""
        async for event in self.instance_events(instance_id, follow=True):
            if on_event is not None:
                on_event(event)
            if event.type in (State.READY, *FINAL):
                break
        instance = await self.instance(instance_id)
        if instance.state is State.READY:
            return instance
        raise _failure(instance)

    async def wait_ended(self, instance_id: str, on_event: Callable[[Event], None] | None = None) -> Instance:
        """Return the instance once nothing is left of it."""
        async for event in self.instance_events(instance_id, follow=True):
            if on_event is not None:
                on_event(event)
        return await self.instance(instance_id)

    async def command(
        self,
        instance_id: str,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str = "",
        terminal: tuple[int, int] | None = None,
    ) -> RemoteProcess:
        """Start a command on a ready instance. ``terminal``: columns and rows of a pseudo-terminal to run it in."""
        size = Size(columns=terminal[0], rows=terminal[1]) if terminal else None
        order = Order(
            words=list(words), environment=dict(environment or {}), directory=directory, terminal=size
        )
        process = RemoteProcess(
            await self._wire.websocket(_path("instances", instance_id, "commands")), order
        )
        self._processes.add(process)
        await process.start()
        return process

    async def put(self, instance_id: str, source: Path, target: str) -> None:
        """Copy a file or folder to ``target`` on a ready instance (relative: to its own folder).

        ``target`` names the copy itself; missing parents are made. Raises NotFound, Forbidden, StorageFull.
        """
        content = await asyncio.to_thread(_readable, source)
        await self._wire.tell(
            "PUT", _path("instances", instance_id, "files"), packing.pack(content), path=target
        )

    async def get(self, instance_id: str, source: str, target: Path) -> None:
        """Copy a file or folder from ``source`` on a ready instance to ``target`` here.

        It appears there when it is complete; a file takes the place of a file, and nothing else is replaced.
        Raises NotFound, Forbidden, InvalidRequest, StorageFull.
        """
        folder = Path(await asyncio.to_thread(_make_folder_beside, target))
        try:
            path = _path("instances", instance_id, "files")
            async with self._wire.send("GET", path, None, path=source) as response:
                content = await packing.unpack(response.content.iter_chunked(256 * 1024), folder)
            await asyncio.to_thread(_put_in_place, content, target)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # Sessions ------------------------------------------------------------------------------------------------

    async def start_session(
        self,
        request: Request,
        plan: Plan,
        *,
        owner: str | None = None,
        name: str = "",
        profile: str = "",
        configure: Sequence[Mapping[str, Any]] = (),
        environment: Mapping[str, str] | None = None,
        longest: int = 0,
        course: str = "",
    ) -> Session:
        """Ask for a session and return at once. ``environment`` may hold secrets: it is never stored. ``course``: that
        it is for."""
        wish = _valid(
            SessionWish,
            request=request,
            plan=plan,
            name=name,
            profile=profile,
            owner=owner,
            configure=[dict(entry) for entry in configure],
            environment=dict(environment or {}),
            longest=longest,
            course=course,
        )
        return await self._wire.ask("POST", "/sessions", Session, wish)

    async def sessions(
        self, *, all: bool = False, owner: str | None = None, here: bool = False
    ) -> list[Session]:
        """Return sessions, oldest first; ended ones too with ``all``. ``here``: none that another service looks after
        that shares the store."""
        return (await self._wire.ask("GET", "/sessions", Sessions, all=all, owner=owner, here=here)).sessions

    async def course(self, name: str) -> CourseState:
        """Return what goes on in a course now, for an administrator. Raises NotFound."""
        return await self._wire.ask("GET", _path("courses", name), CourseState)

    async def session(self, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return await self._wire.ask("GET", _path("sessions", session_id), Session)

    async def wait_session(self, session_id: str) -> Port:
        """Return where a session is reached here, once it answers; raise what kept it from doing so."""
        session = await self._wire.ask("POST", _path("sessions", session_id, "wait"), Session)
        if session.endpoint is None:
            raise GridcloudError(f"Session {session_id} runs without an endpoint.")
        return session.endpoint

    async def extend_session(
        self,
        session_id: str,
        *,
        time: int | None = None,
        after: datetime | None = None,
        longest: int | None = None,
    ) -> Instance:
        """Have a running session live longer: for so many seconds from now, or by as much as the configuration says;
        return its instance, with its new end.

        ``after``: the end that one was told of; where it is later by now nothing is changed. ``longest``: seconds that
        it may live in all, for an administrator who asks for its user. Raises InvalidRequest, Forbidden, QuotaExceeded.
        """
        wish = _valid(SessionExtension, time=time, after=after, longest=longest)
        return await self._wire.ask("POST", _path("sessions", session_id, "extend"), Instance, wish)

    async def stop_session(self, session_id: str) -> Session:
        """Have a session end with its instance; return at once. May be called twice."""
        return await self._wire.ask("POST", _path("sessions", session_id, "stop"), Session)

    def session_events(
        self, session_id: str, *, follow: bool = False, after: int = 0
    ) -> AsyncIterator[Event]:
        """Yield a session's story, its instance's included; with ``follow`` until it has ended."""
        return self._wire.events(_path("sessions", session_id, "events"), follow=follow, after=after)

    # Stacks --------------------------------------------------------------------------------------------------

    async def define_stack(self, name: str, definition: Definition, *, owner: str | None = None) -> Stack:
        """Write a stack down; nothing is started. Raises InvalidRequest when there is one of this name."""
        wish = _valid(StackWish, name=name, definition=definition, owner=owner)
        return await self._wire.ask("POST", "/stacks", Stack, wish)

    async def stacks(self, *, all: bool = False, owner: str | None = None) -> list[Stack]:
        """Return stacks, oldest first; those that are gone too with ``all``."""
        return (await self._wire.ask("GET", "/stacks", Stacks, all=all, owner=owner)).stacks

    async def stack(self, stack_id: str, *, all: bool = False) -> Stack:
        """Return one stack by its id, or one's own by its name; one that is gone only with ``all``. Raises NotFound."""
        return await self._wire.ask("GET", _path("stacks", stack_id), Stack, all=all)

    async def update_stack(
        self,
        stack_id: str,
        *,
        name: str | None = None,
        definition: Definition | None = None,
        version: int | None = None,
    ) -> Stack:
        """Change a stack's name or what it is to be; `deploy_stack` brings its instances to that.

        Raises Conflict when it is no longer of ``version``.
        """
        change = StackChange(name=name, definition=definition, version=version)
        return await self._wire.ask("PATCH", _path("stacks", stack_id), Stack, change)

    async def deploy_stack(self, stack_id: str, *, keep_going: bool = False) -> Stack:
        """Have all its instances obtained; return at once. All of them or none, unless ``keep_going``."""
        deployment = Deployment(keep_going=keep_going)
        return await self._wire.ask("POST", _path("stacks", stack_id, "deploy"), Stack, deployment)

    async def destroy_stack(self, stack_id: str) -> Stack:
        """Have all its instances end, and it with them; return at once. May be called twice."""
        return await self._wire.ask("POST", _path("stacks", stack_id, "destroy"), Stack)

    def stack_events(self, stack_id: str, *, follow: bool = False, after: int = 0) -> AsyncIterator[Event]:
        """Yield a stack's story; with ``follow`` until it is gone."""
        return self._wire.events(_path("stacks", stack_id, "events"), follow=follow, after=after)

    async def wait_stack(
        self, stack_id: str, on_event: Callable[[Event], None] | None = None, *, after: int = 0
    ) -> Stack:
        """Return the stack once it is no longer on its way, telling each event of a ``seq`` above ``after``."""
        moving = (StackState.DEPLOYING, StackState.CLEARING, StackState.DESTROYING)
        follow = (await self.stack(stack_id, all=True)).state in moving
        async for event in self.stack_events(stack_id, follow=follow, after=after):
            if on_event is not None:
                on_event(event)
            if follow and event.type not in moving:
                stack = await self.stack(stack_id, all=True)
                if stack.state not in moving:
                    return stack
        return await self.stack(stack_id, all=True)

    # Clusters ------------------------------------------------------------------------------------------------

    async def start_cluster(
        self, name: str, request: ClusterRequest | None = None, *, owner: str | None = None
    ) -> Cluster:
        """Ask for a Kubernetes cluster and return at once; `wait_cluster` or `cluster_events` tell the rest."""
        wish = _valid(ClusterWish, name=name, request=request or ClusterRequest(), owner=owner)
        return await self._wire.ask("POST", "/clusters", Cluster, wish)

    async def clusters(self, *, all: bool = False, owner: str | None = None) -> list[Cluster]:
        """Return clusters, oldest first; ended ones too with ``all``."""
        return (await self._wire.ask("GET", "/clusters", Clusters, all=all, owner=owner)).clusters

    async def cluster(self, cluster_id: str) -> Cluster:
        """Return one cluster by its id, or one's own by its name. Raises NotFound."""
        return await self._wire.ask("GET", _path("clusters", cluster_id), Cluster)

    async def scale_cluster(self, cluster_id: str, nodes: int) -> Cluster:
        """Have a cluster get so many nodes; return at once."""
        scaling = _valid(Scaling, nodes=nodes)
        return await self._wire.ask("POST", _path("clusters", cluster_id, "scale"), Cluster, scaling)

    async def stop_cluster(self, cluster_id: str) -> Cluster:
        """Have a cluster end; return at once. May be called twice."""
        return await self._wire.ask("POST", _path("clusters", cluster_id, "stop"), Cluster)

    async def cluster_access(self, cluster_id: str) -> str:
        """Return the kubeconfig of a cluster that is ready: a secret."""
        return (
            await self._wire.ask("GET", _path("clusters", cluster_id, "access"), ClusterAccess)
        ).kubeconfig

    def cluster_events(
        self, cluster_id: str, *, follow: bool = False, after: int = 0
    ) -> AsyncIterator[Event]:
        """Yield a cluster's story; with ``follow`` until it has ended."""
        return self._wire.events(_path("clusters", cluster_id, "events"), follow=follow, after=after)

    async def wait_cluster(
        self, cluster_id: str, on_event: Callable[[Event], None] | None = None, *, after: int = 0
    ) -> Cluster:
        """Return the cluster once it is ready or has ended, telling each event ``after`` that place of its story."""
        settled = (ClusterState.READY, *CLUSTER_FINAL)
        cluster = await self.cluster(cluster_id)
        follow = cluster.state not in settled
        async for event in self.cluster_events(cluster.id, follow=follow, after=after):
            if on_event is not None:
                on_event(event)
            if follow and event.type in settled:
                cluster = await self.cluster(cluster.id)
                if cluster.state in settled:
                    return cluster
        return await self.cluster(cluster.id)

    async def cluster_providers(self) -> ClusterProviders:
        """Return what makes clusters, as it is configured and installed."""
        return await self._wire.ask("GET", "/cluster-providers", ClusterProviders)

    async def check_cluster_provider(self, name: str) -> list[Finding]:
        """Try what makes clusters without making any."""
        return (await self._wire.ask("GET", _path("cluster-providers", name, "check"), Findings)).findings

    async def forget_cluster_provider(self, name: str, *, give_up: bool = False) -> ForgottenProvider:
        """Have what makes clusters, and left the configuration, never asked again; see `forget_provider`."""
        place, order = _path("cluster-providers", name, "forget"), ForgetOrder(give_up=give_up)
        return await self._wire.ask("POST", place, ForgottenProvider, order)

    # Budgets -------------------------------------------------------------------------------------------------

    async def budgets(self, *, user: str | None = None) -> Budgets:
        """Return how the budgets stand that concern oneself; all, or those of a user, for an administrator."""
        return await self._wire.ask("GET", "/budgets", Budgets, user=user)

    async def budget(self, name: str, *, user: str | None = None) -> Budgets:
        """Return how one budget stands, by provider and by instance, each part of it. Raises NotFound."""
        return await self._wire.ask("GET", _path("budgets", name), Budgets, user=user)

    async def ledger(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        user: str | None = None,
        project: str | None = None,
        provider: str | None = None,
    ) -> Ledger:
        """Return what every machine cost within a span: one's own, or everybody's for an administrator."""
        span = {"since": since.isoformat() if since else None, "until": until.isoformat() if until else None}
        return await self._wire.ask(
            "GET", "/ledger", Ledger, **span, user=user, project=project, provider=provider
        )

    # Providers and health ------------------------------------------------------------------------------------

    async def providers(self, *, images: bool = False) -> list[Provider]:
        """Return the configured providers; with ``images`` those that each can start."""
        return (await self._wire.ask("GET", "/providers", Providers, images=images)).providers

    async def drivers(self) -> dict[str, str]:
        """Return the installed instance drivers and the distributions they come from."""
        return (await self._wire.ask("GET", "/providers", Providers)).drivers

    async def check_provider(self, name: str) -> list[Finding]:
        """Try a provider without starting anything."""
        return (await self._wire.ask("GET", _path("providers", name, "check"), Findings)).findings

    async def discover_provider(self, name: str) -> Discovery:
        """Return the images, shapes, locations and networks of a provider. Raises InvalidRequest where it has none."""
        return await self._wire.ask("GET", _path("providers", name, "discovery"), Discovery)

    async def add_provider(self, name: str, entry: Mapping[str, Any]) -> Provider:
        """Add a provider to the service's configuration file."""
        return await self._wire.ask(
            "POST", "/providers", Provider, ProviderEntry(name=name, entry=dict(entry))
        )

    async def remove_provider(self, name: str) -> None:
        """Remove a provider from the service's configuration file; what it holds lives on until it ends."""
        await self._wire.tell("DELETE", _path("providers", name))

    async def forget_provider(self, name: str, *, give_up: bool = False) -> ForgottenProvider:
        """Have a provider that left the configuration never asked again. Raises InvalidRequest while something may be
        left there, unless that is given up: the answer says what."""
        order = ForgetOrder(give_up=give_up)
        return await self._wire.ask("POST", _path("providers", name, "forget"), ForgottenProvider, order)

    async def examine(self) -> list[Trouble]:
        """Compare what providers hold with what the store knows."""
        return (await self._wire.ask("GET", "/doctor", Health)).troubles

    async def mend(self) -> list[Trouble]:
        """Remove what nothing accounts for."""
        return (await self._wire.ask("POST", "/doctor/mend", Health)).troubles

    async def create_token(
        self, *, user: str | None = None, note: str = "", time: int = 0, admin: bool = False
    ) -> IssuedToken:
        """Make an API token, good for ``time`` seconds (0: for ever); its secret is told this once."""
        wish = _valid(TokenWish, user=user, note=note, time=time, admin=admin)
        return await self._wire.ask("POST", "/tokens", IssuedToken, wish)

    async def tokens(self) -> list[TokenInfo]:
        """Return one's own tokens, or everybody's for an administrator, without their secrets."""
        return (await self._wire.ask("GET", "/tokens", Tokens)).tokens

    async def revoke_token(self, token_id: str) -> None:
        """Make a token worthless at once. Raises NotFound."""
        await self._wire.tell("DELETE", _path("tokens", token_id))

    async def close(self) -> None:
        """Let go; commands end, instances and sessions live on. May be called twice."""
        for process in list(self._processes):
            await process.close()
        await self._wire.close()
        closing, self._closing = self._closing, None
        if closing is not None:
            await closing()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _readable(source: Path) -> Path:
    """Return the path without links, as a copy has none at its top. Raises NotFound, Forbidden."""
    try:
        found = source.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no {source}.") from None
    except (OSError, RuntimeError) as error:  # a circle of links
        raise Forbidden(f"{source} cannot be read: {error}.") from error
    if not os.access(found, os.R_OK):
        raise Forbidden(f"{source} may not be read.", remedy="Check its owner and mode.")
    return found


def _make_folder_beside(target: Path) -> str:
    if target.is_dir():
        raise InvalidRequest(f"{target} is there already.", remedy="Remove it, or name another target.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=".gridcloud-", dir=target.parent)
    except FileExistsError as error:
        raise InvalidRequest(f"{error.filename} is no folder.") from error
    except OSError as error:
        raise _unwritten(target, error) from error


def _put_in_place(content: Path, target: Path) -> None:
    if content.is_dir() and os.path.lexists(target):
        raise InvalidRequest(f"{target} is there already.", remedy="Remove it, or name another target.")
    try:
        content.replace(target)
    except OSError as error:
        raise _unwritten(target, error) from error


def _unwritten(target: Path, error: OSError) -> GridcloudError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"No space is left for {target}.")
    return Forbidden(f"{target} cannot be written: {error.strerror}.", remedy="Check its folder's mode.")


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _valid(model: type[Document], **fields: Any) -> Document:
    """Return a document of these fields. Raises InvalidRequest."""
    try:
        return model(**fields)
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}."
            for fault in error.errors(include_url=False)
        ]
        raise InvalidRequest(" ".join(told)) from None


def _failure(instance: Instance) -> GridcloudError:
    if instance.reason is Reason.NO_OFFER:
        return NoOffer(instance.detail)
    if instance.reason is Reason.CONFIGURATION:
        return ConfigurationFailed(instance.detail)
    return NotFound(f"Instance {instance.id} has ended ({instance.reason}): {instance.detail}")
