"""Pods of a Kubernetes cluster: an instance is one pod in a namespace of ours.

What a pod asks for is what it may take (requests are limits), so nothing is overcommitted and quotas mean what they
say. Its first process only waits, and ends when the expiry noted on the pod has come. It runs as an ordinary user
without capabilities, gains no privileges, and gets no token of the cluster. Its folder goes with it; an owner's home is
a volume of theirs where `home_size` is set, kept between pods. Credentials stay in the kubeconfig.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from gridcloud.connections.model import PodAddress
from gridcloud.drivers.instances.kubernetes_api import Namespace
from gridcloud.drivers.instances.kubernetes_capacity import read_limits, read_nodes, read_quotas
from gridcloud.drivers.instances.kubernetes_check import examine
from gridcloud.drivers.instances.kubernetes_manifests import (
    CONTAINER,
    EXPIRES,
    FOLDER,
    GRACE,
    HOME,
    INSTANCE,
    INVITED,
    OWNER,
    render_home,
    render_pod,
    render_secret,
)
from gridcloud.drivers.instances.kubernetes_offers import Room, choose
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.drivers.instances.kubernetes_status import (
    age_of,
    awaits_volume,
    has_stopped,
    phase_of,
    why_not_pulled,
)
from gridcloud.drivers.kubernetes_pods import (
    INSTALLATION,
    explain_image,
    label_value,
    unschedulable,
    worst_event,
)
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    Rejected,
    Transient,
)
from gridcloud.instances.bootstraps import AgentDoor, by_agent, find_machines, invite, read_authorities
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.model import (
    Discovery,
    Finding,
    Found,
    Handle,
    Holding,
    Observation,
    Offer,
    Phase,
    Request,
    Spec,
)
from gridcloud.settings import ProviderSettings

__all__ = ["KubernetesDriver"]

UNDECIDED = 10
"""Seconds that a creation waits for the scheduler to choose a node."""

SURE = 2
"""Seconds after which the scheduler's no is taken for one: it may not have heard yet of a pod that has just gone."""

PATIENCE = 25
"""Seconds that a removal waits until the pod is gone."""

EXPLAIN = 15
"""Seconds after which a pod that does not start is asked about with its events."""

Document = Mapping[str, Any]

_LOCKS: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()


class KubernetesDriver(InstanceDriver):
    """One namespace of one cluster."""

    Settings: ClassVar[type[ProviderSettings]] = KubernetesSettings
    settings: KubernetesSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._opened: dict[tuple[str, str], asyncio.Task[Namespace]] = {}
        self._forbidden: set[str] = set()
        """Instances whose pod we were not allowed to make."""

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer a pod as asked; see the contract. Quotas and limit ranges are read first."""
        namespace = await self._namespace()
        return choose(request, self.settings, self.context.provider, await self._room(namespace))

    async def images(self) -> Sequence[str]:
        """Return the images that may be asked for by name, the default first."""
        named = [image for image in self.settings.images if "*" not in image]
        return list(dict.fromkeys([self.settings.image, *named]))

    async def discover(self) -> Discovery:
        """Return images, the largest pod of each node, and the namespace; see the contract."""
        namespace = await self._namespace()
        room = await self._room(namespace)
        return Discovery(
            images=tuple(Found(id=image) for image in (self.settings.image, *self.settings.images)),
            shapes=tuple(Found(id=node.name, shape=node.whole) for node in room.nodes or ()),
            locations=(Found(id=room.place, name=self.settings.location),),
            networks=(Found(id="pod network", detail="reached through the cluster's API"),),
        )

    async def create(self, spec: Spec) -> Handle:
        """Make the pod and wait for a node to be chosen; see the contract."""
        image = spec.request.image or self.settings.image
        if why := explain_image(image, self.settings):
            raise InvalidRequest(f"{self.context.provider}: {why}.")
        namespace = await self._namespace()
        kept = self.settings.home_size and not spec.guest
        home = await self._home(namespace, spec.owner) if kept else ""
        expires = math.ceil(time.time()) + spec.request.time + GRACE if spec.request.time else None
        manifest = render_pod(spec, self.settings, self.context.installation, expires, home)
        try:
            pod: Document = await namespace.make_pod(manifest)
        except Conflict:
            pod = await self._made_before(namespace, manifest)
        except Forbidden:
            self._forbidden.add(spec.id)
            raise
        if self.settings.agent is not None:
            await self._invite(namespace, spec, str(pod["metadata"]["name"]), self.settings.agent)
        try:
            pod = await self._placed(namespace, pod)
        except NoCapacity:
            await self.context.agents.forget(spec.id, self.context.provider)
            raise
        return self._handle(namespace, pod["metadata"])

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Ask for all pods of ours in a namespace in one call; see the contract."""
        seen: dict[str, Observation] = {}
        machines = await find_machines(self.context)
        places = {self._place_of(handle) for handle in handles.values()}
        for place in places:
            namespace = await self._namespace(*place)
            held = {pod["metadata"]["uid"]: pod for pod in await namespace.pods()}
            for instance_id, handle in handles.items():
                if self._place_of(handle) == place:
                    if handle.data.get("uid") not in held:
                        await self._check_cluster(namespace, handle)
                    pod = held.get(str(handle.data.get("uid")))
                    one = await self._observation(namespace, pod)
                    if pod is not None and INVITED in (pod["metadata"].get("annotations") or {}):
                        one = by_agent(one, machines.get(instance_id), "the pod runs")
                    seen[instance_id] = one
        return seen

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Remove the pod with all that runs in it; see the contract. The owner's home is kept."""
        places = {("", "")} | ({self._place_of(handle)} if handle else set())
        for place in places:
            namespace = await self._namespace(*place)
            try:
                found = await self._remove(namespace, instance_id)
            except Forbidden:
                # Who may not make pods may mostly not list them either: there is none to wait for. `holdings` would
                # find one of a former life as soon as they may be listed.
                if handle or instance_id not in self._forbidden:
                    raise
                found = False
            if handle and place == self._place_of(handle) and not found:
                await self._check_cluster(namespace, handle)
        self._forbidden.discard(instance_id)
        await self.context.agents.forget(instance_id, self.context.provider)

    async def holdings(self) -> Sequence[Holding]:
        """List our pods; see the contract. Homes are their owners' and are kept: `check` tells of them."""
        namespace = await self._namespace()
        return [
            Holding(
                instance_id=str(meta["annotations"][INSTANCE]),
                what="pod",
                name=f"{namespace.name}/{meta['name']}",
                created=datetime.fromisoformat(meta["creationTimestamp"]),
                handle=self._handle(namespace, meta),
            )
            for pod in await namespace.pods()
            if _is_instance(meta := pod["metadata"])
        ]

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Note on the pod when it ends itself: at most some minutes later, by what its node tells it."""
        namespace = await self._namespace(*self._place_of(handle))
        uid, name = str(handle.data.get("uid")), str(handle.data.get("pod"))
        if instance_id in await find_machines(self.context):  # it need not wait for its node to pass it on
            await self.context.agents.call(instance_id, "arm", {"at": at.isoformat()})
        try:
            await namespace.annotate_pod(name, uid, {EXPIRES: str(math.ceil(at.timestamp()))})
        except (Conflict, InvalidRequest) as error:
            raise NotFound(f"The pod of {instance_id} is gone; another has its name.") from error

    async def check(self) -> Sequence[Finding]:
        """Try credentials, rights, quotas, nodes, image and storage; see the contract."""
        try:
            namespace = await self._namespace()
            return await examine(namespace, self.settings, self.context.provider, await self._room(namespace))
        except GridcloudError as error:
            remedy = error.remedy or "Try `kubectl get pods` with the same kubeconfig and context."
            return [Finding(subject=self.context.provider, ok=False, message=error.message, remedy=remedy)]

    async def close(self) -> None:
        """Let go of the cluster; see the contract."""
        opened = list(self._opened.values())
        self._opened.clear()
        for task in opened:
            task.cancel()
        for result in await asyncio.gather(*opened, return_exceptions=True):
            if isinstance(result, Namespace):
                await result.close()

    # The cluster

    async def _namespace(self, context: str = "", name: str = "") -> Namespace:
        """Return a namespace, opened once; the settings' own where none is named."""
        place = context or self.settings.context, name or self.settings.namespace
        task = self._opened.get(place)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._opened[place] = asyncio.ensure_future(self._open(*place))
        return await asyncio.shield(task)

    async def _check_cluster(self, namespace: Namespace, handle: Handle) -> None:
        """Raise InvalidSettings where a pod is not to be seen since its context has come to mean another cluster."""
        made_in = handle.data.get("cluster", namespace.cluster)
        if made_in == namespace.cluster:
            return
        for place, task in list(self._opened.items()):
            if task.done() and not task.cancelled() and not task.exception() and task.result() is namespace:
                del self._opened[place]  # and reads the kubeconfig anew, which may have been put right
        await namespace.close()
        raise InvalidSettings(
            f"{self.context.provider}: the context {namespace.context} leads to another cluster than the one with the "
            f"pod {handle.data.get('pod')}: its authority differs.",
            remedy="Put the kubeconfig right; another cluster is an entry of its own.",
        )

    async def _open(self, context: str, name: str) -> Namespace:
        namespace = Namespace(self.settings.kubeconfig, context, name, self.context.installation)
        try:
            await namespace.open()
        except BaseException:
            await namespace.close()
            raise
        return namespace

    async def _room(self, namespace: Namespace) -> Room:
        asked = [
            asyncio.ensure_future(one)
            for one in (namespace.nodes(), namespace.all_pods(), namespace.quotas(), namespace.limit_ranges())
        ]
        try:
            nodes, pods, quotas, ranges = await asyncio.gather(*asked)
        except BaseException:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise
        known = nodes is not None and pods is not None
        return Room(
            place=f"{namespace.context}, namespace {namespace.name}",
            nodes=read_nodes(nodes or (), pods or (), self.settings) if known else None,
            quotas=read_quotas(quotas or (), self.settings),
            limits=read_limits(ranges or ()),
        )

    @staticmethod
    def _place_of(handle: Handle) -> tuple[str, str]:
        return str(handle.data.get("context", "")), str(handle.data.get("namespace", ""))

    @staticmethod
    def _handle(namespace: Namespace, meta: Document) -> Handle:
        place = {"namespace": namespace.name, "context": namespace.context, "cluster": namespace.cluster}
        return Handle(data={"pod": meta["name"], "uid": meta["uid"], **place})

    # One life

    async def _made_before(self, namespace: Namespace, manifest: Document) -> Document:
        """Return the pod that has our pod's name. Raises Transient when it is not ours, or about to go."""
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        try:
            pod = await namespace.pod(name)
        except NotFound as error:
            raise Transient(f"The pod {name} was there and has just gone.", remedy="Try again.") from error
        whose = pod["metadata"].get("labels") or {}
        if any(whose.get(key) != labels[key] for key in (INSTALLATION, INSTANCE)):
            raise Transient(
                f"There is a pod {namespace.name}/{name} that is not ours.",
                remedy="Remove the stranger's pod of that name.",
            )
        if pod["metadata"].get("deletionTimestamp"):
            raise Transient(f"The pod {name} of a former life is still being removed.", remedy="Try again.")
        return pod

    async def _invite(self, namespace: Namespace, spec: Spec, name: str, door: AgentDoor) -> None:
        """Give the agent of a new pod its token, once: it waits for the secret to be there."""
        async with _LOCKS.setdefault((self.context.installation, spec.id), asyncio.Lock()):
            pod = await namespace.pod(name)
            meta = pod["metadata"]
            if INVITED in (meta.get("annotations") or {}):
                return
            authorities = await read_authorities(door.ca)
            token = await invite(self.context, spec.id, spec.request, door.networks, self.settings.queue)
            await namespace.replace_secret(render_secret(pod, token.reveal(), authorities))
            await namespace.annotate_pod(name, meta["uid"], {INVITED: "yes"})

    async def _placed(self, namespace: Namespace, pod: Document) -> Document:
        """Return the pod once it has a node, or may wait for one. Raises NoCapacity when no node has room: it is
        removed then."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        began, refused, pause = time.monotonic(), 0.0, 0.05
        while not pod["spec"].get("nodeName") and time.monotonic() - began < UNDECIDED:
            why = unschedulable(pod)
            if why and (self.settings.queue or awaits_volume(why)):
                return pod
            refused = (refused or time.monotonic()) if why else 0.0
            if why and time.monotonic() - refused > SURE:
                await namespace.remove_pod(name, uid, 0)
                raise NoCapacity(f"{self.context.provider} has no node with room: {why}")
            await asyncio.sleep(pause := min(pause * 1.5, 0.5))
            try:
                pod = await namespace.pod(name)
            except NotFound as error:
                raise Transient(
                    f"The pod {name} was removed while it was made.", remedy="Try again."
                ) from error
        return pod

    async def _home(self, namespace: Namespace, owner: str) -> str:
        """Return the claim of an owner's home, made when there is none. Raises Rejected when it is another's."""
        manifest = render_home(owner, self.settings, self.context.installation)
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        claim = await namespace.claim(name)
        if claim is None:
            try:
                claim = await namespace.make_claim(manifest)
            except Conflict:
                claim = await namespace.claim(name) or {"metadata": {}}
        whose = claim["metadata"].get("labels") or {}
        if any(whose.get(key) != labels[key] for key in (INSTALLATION, OWNER)):
            raise Rejected(
                f"There is a claim {namespace.name}/{name} that is not this owner's home.",
                remedy="An administrator compares its labels (`kubectl get pvc --show-labels`), and removes it.",
            )
        return str(name)

    async def _observation(self, namespace: Namespace, pod: Document | None) -> Observation:
        if pod is None:
            return Observation(phase=Phase.GONE, detail="there is no such pod")
        now, meta = datetime.now(UTC), pod["metadata"]
        phase, detail = phase_of(pod, queue=max(self.settings.queue, UNDECIDED), now=now)
        if phase is Phase.PENDING and age_of(pod, now) > EXPLAIN:
            detail = worst_event(await namespace.events(meta["uid"])) or detail
        if phase is Phase.FAILED and "ImagePullBackOff" in detail:
            detail = why_not_pulled(await namespace.events(meta["uid"])) or detail
        address = None
        if phase is Phase.RUNNING:
            address = PodAddress(
                kubeconfig=namespace.kubeconfig, context=namespace.context, namespace=namespace.name,
                pod=meta["name"], uid=meta["uid"], container=CONTAINER, directory=FOLDER, home=HOME,
            )  # fmt: skip
        return Observation(phase=phase, address=address, detail=detail)

    async def _remove(self, namespace: Namespace, instance_id: str) -> bool:
        """Remove the pods of an instance; return whether there were any."""
        began, pause, found = time.monotonic(), 0.05, False
        while held := [pod for pod in await namespace.pods(instance_id) if _is_instance(pod["metadata"])]:
            found = True
            for pod in held:
                meta = pod["metadata"]
                if not pod["spec"].get("nodeName") or has_stopped(pod):
                    # Nothing runs there: the node would say so some ten seconds later, or there is none to say it.
                    await namespace.remove_pod(meta["name"], meta["uid"], 0)
                elif not meta.get("deletionTimestamp"):
                    await namespace.remove_pod(meta["name"], meta["uid"], 5)
            if time.monotonic() - began > PATIENCE:
                if all(pod["metadata"].get("deletionTimestamp") for pod in held):
                    return (
                        True  # its node does not answer: the pod goes when the node does, or when it returns
                    )
                raise Transient(f"The pod of {instance_id} is still there.", remedy="It will be tried again.")
            await asyncio.sleep(pause := min(pause * 1.5, 0.5))
        return found


def _is_instance(meta: Document) -> bool:
    """Tell whether a pod is one that we made for an instance: its note and its label agree."""
    noted = (meta.get("annotations") or {}).get(INSTANCE, "")
    return bool(noted) and label_value(noted) == (meta.get("labels") or {}).get(INSTANCE)
