"""Jobs of a Kubernetes cluster: those that need the same are one indexed Job, whose pods share a volume.

A job's folder lies on the volume of a claim, and is reached through a small pod, the door, that is there while jobs
are. It says itself by which Job, and which index of it, it runs; a Job is named by a random token that was written
there first, so that it is made once. The frame tells how a job ended; the cluster is believed where the frame could not
say it: evicted, out of memory, its node lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gridcloud.connections.captures import Done
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import PodAddress
from gridcloud.drivers.jobs.kubernetes_manifests import (
    DOOR,
    FOLDER,
    KubernetesJobsSettings,
    Needs,
    door_name,
    handles_of,
    job_name,
    labels_of,
    render_door,
    render_job_array,
)
from gridcloud.drivers.kubernetes_pods import NEVER, explain_image, label_value, unschedulable
from gridcloud.drivers.kubernetes_quantities import parse_amount, parse_cpus
from gridcloud.drivers.kubernetes_wire import Document, Wire
from gridcloud.errors import (
    Conflict,
    ConnectionLost,
    Forbidden,
    GridcloudError,
    NotFound,
    Rejected,
    Transient,
    Unavailable,
)
from gridcloud.instances.model import Finding
from gridcloud.jobs.driver import (
    JobContext,
    JobDriver,
    JobHolding,
    JobObservation,
    JobOffer,
    Part,
    Phase,
    Place,
    SchedulerSettings,
    Stream,
    Submission,
)
from gridcloud.jobs.folders import Folders, Seen, verbs_over
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Request

__all__ = ["KubernetesJobs", "KubernetesJobsSettings"]

BATCH = "/apis/batch/v1"
INDEX = "batch.kubernetes.io/job-completion-index"
INDEXED = 22
"""The minor version from which every cluster has indexed Jobs."""
SECONDS = 15.0
"""Seconds for a look at the folders."""
OPENING = 15.0
"""Seconds for the door to open, in one call."""
UNSAID = 5.0
"""Seconds after which a job's last words come no more: they are written on another node."""
UNUSED = 300.0
"""Seconds after which the door is closed that nobody used."""

_CAUSES = {"OOMKilled": Cause.MEMORY, "DeadlineExceeded": Cause.TIME, "Preempting": Cause.PREEMPTED}


class KubernetesJobs(JobDriver):
    """One namespace of a cluster."""

    Settings = KubernetesJobsSettings
    settings: KubernetesJobsSettings

    def __init__(self, settings: SchedulerSettings, context: JobContext) -> None:
        super().__init__(settings, context)
        mine = self.settings
        self._wire = Wire(mine.kubeconfig, mine.context, mine.namespace, context.installation)
        self._labels = labels_of(context.installation, context.provider)
        self._base = f"{FOLDER}/{label_value(context.installation)}/{label_value(context.provider)}"
        self._verbs = verbs_over(self._door, f"The pod of the jobs' folders in {context.provider}", SECONDS)
        self._folders = Folders(self._do, self._where)
        self._turn = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._opened = False
        self._indexed = False
        self._connection: Connection | None = None
        self._used = time.monotonic()
        self._unsaid: dict[str, float] = {}

    async def offer(self, request: Request, owner: str) -> JobOffer:
        """Ask whether a node could ever run it; see the contract."""
        try:
            await self._open()
            self._admit(owner)
            if why := explain_image(request.image or self.settings.image, self.settings):
                return JobOffer(possible=False, why_not=why)
            nodes = await self._wire.nodes()
            if nodes is not None and not any(self._fits(request, node) for node in nodes):
                return JobOffer(possible=False, why_not="no node of the cluster is as large as that")
            await self._needs(request)
        except Rejected as error:
            return JobOffer(possible=False, why_not=str(error))
        pods = await self._wire.list_all(self._wire.place("pods"), self._selector())
        waits = any(unschedulable(pod) for pod in pods)
        why = "other jobs wait for a node" if waits else ""
        return JobOffer(wait=120.0 if waits else 5.0, price=self.settings.price, why_not=why)

    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Bring their folders, and make Jobs of those that need the same; see the contract."""
        await self._open()
        refused: dict[str, str] = {}
        groups: dict[Needs, list[Submission]] = {}
        async with self._turn:
            seen = await self._folders.look([job.handle for job in jobs])
            for job in jobs:
                before = seen[job.handle]
                if before.job or before.end or (before.token and await self._remind(job.handle, before)):
                    continue
                try:
                    self._admit(job.owner)
                    if why := explain_image(job.request.image or self.settings.image, self.settings):
                        raise Rejected(why)
                    groups.setdefault(await self._needs(job.request), []).append(job)
                except (Rejected, Unavailable) as error:
                    refused[job.handle] = str(error)
            for needs, members in groups.items():
                most = self.settings.array if self._indexed else 1
                for first in range(0, len(members), most):
                    refused |= await self._make(needs, members[first : first + most])
        return refused

    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Look at their folders, and ask the cluster once for all; see the contract."""
        if not handles:
            return {}
        await self._open()
        seen = await self._folders.look(handles)
        pods: dict[str, Document] = {}
        open_: set[str] = set()
        if any(one.there and one.end is None for one in seen.values()):
            for pod in await self._wire.list_all(self._wire.place("pods"), self._selector()):
                if not _is_better(pods.get(key := _element(pod)), pod):
                    continue
                pods[key] = pod
            open_ = {job["metadata"]["name"] for job in await self._jobs() if not _is_over(job)}
        found = {handle: self._judge(handle, seen[handle], pods, open_) for handle in handles}
        # What is said to have ended without having begun is not to begin late: its pod may be made again.
        doubtful = [one for one in handles if found[one].phase is Phase.ENDED and not found[one].begun]
        unbegun = await self._folders.claim(doubtful) if doubtful else set()
        for handle in set(doubtful) - unbegun:
            found[handle] = found[handle].model_copy(update={"begun": True})
        return found

    async def cancel(self, handles: Sequence[str]) -> None:
        """Have none of them begin, and the cluster end those that have; see the contract."""
        await self._open()
        seen = await self._folders.look(handles)
        await self._folders.claim(one for one in handles if seen[one].there and not seen[one].begun)
        ending = {one.job for one in seen.values() if one.job and one.end is None}
        for job in await self._jobs() if ending else ():
            elements = {f"{job['metadata']['name']}/{number}" for number in range(len(handles_of(job)))}
            if elements and elements <= ending:
                await self._remove_job(job)
                ending -= elements
        for pod in await self._wire.list_all(self._wire.place("pods"), self._selector()) if ending else ():
            if _element(pod) in ending:
                await self._wire.remove_pod(pod["metadata"]["name"], pod["metadata"]["uid"], 30)

    async def remove(self, handles: Sequence[str]) -> None:
        """Remove their folders, and Jobs of which none is left; see the contract."""
        await self._open()
        await self._folders.tell("remove", handles)
        left = set(await self._folders.handles())
        for job in await self._jobs():
            if not left & set(handles_of(job)):
                await self._remove_job(job)

    async def holdings(self) -> Sequence[JobHolding]:
        """List the folders, and the jobs of Jobs; see the contract."""
        await self._open()
        found = dict.fromkeys(await self._folders.handles(), "")
        for job in await self._jobs():
            found |= dict.fromkeys(handles_of(job), job["metadata"]["name"])
        return [JobHolding(handle=handle, name=name) for handle, name in found.items()]

    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Read from its folder; see the contract."""
        await self._open()
        return await self._folders.read(handle, stream, offset, most)

    async def place(self, handle: str) -> Place:
        """Return its folder, through the door; see the contract."""
        await self._open()
        if not (await self._folders.look([handle]))[handle].there:
            raise NotFound(f"{self.context.provider} holds nothing of {handle:.60}.")
        return Place(await self._address(), await self._folders.work(handle))

    async def check(self) -> Sequence[Finding]:
        """Ask for the version, our rights, and the claim."""
        subject = self.context.provider
        try:
            await self._open()
            found = [
                Finding(subject=subject, ok=True, message=f"the cluster is {await self._wire.version()}")
            ]
            for verb, resource in (("create", "batch/jobs"), ("create", "pods"), ("create", "pods/exec")):
                group, _, kind = (
                    resource.rpartition("/") if resource.startswith("batch") else ("", "", resource)
                )
                if not await self._wire.may(verb, kind, group=group):
                    remedy = f"Give the account a role that may {verb} {kind} in {self._wire.name}."
                    message = f"we may not {verb} {kind} in {self._wire.name}"
                    found.append(Finding(subject=subject, ok=False, message=message, remedy=remedy))
            claim = await self._wire.ask(
                "GET", self._wire.place("persistentvolumeclaims", self.settings.claim)
            )
            modes = ", ".join(claim["spec"].get("accessModes") or ())
            found.append(Finding(subject=subject, ok=True, message=f"the claim of the jobs is {modes}"))
        except GridcloudError as error:
            remedy = error.remedy or "Look at kubeconfig, context, namespace and claim of this scheduler."
            return [Finding(subject=subject, ok=False, message=error.message, remedy=remedy)]
        return found

    async def keep_house(self) -> float:
        """Close the door that nobody has used for a while; see `Housekeeping`."""
        await self._open()
        if time.monotonic() - self._used < UNUSED:
            return UNUSED / 4
        async with self._opening:
            name = door_name(self.context.installation, self.context.provider)
            with contextlib.suppress(NotFound):
                pod = await self._wire.pod(name)
                await self._leave()
                await self._wire.remove_pod(name, pod["metadata"]["uid"], 1)
        return 0.0

    async def close(self) -> None:
        """Let go of the cluster; see the contract."""
        await self._leave()
        await self._wire.close()
        self._opened = False

    # Making Jobs ---------------------------------------------------------------------------------------------

    async def _make(self, needs: Needs, jobs: Sequence[Submission]) -> dict[str, str]:
        """Bring folders and make one Job; return why it was refused, for each of its jobs."""
        token = secrets.token_hex(6)
        handles = [job.handle for job in jobs]
        marks = {handle: {"token": f"{token} {index}\n".encode()} for index, handle in enumerate(handles)}
        await self._folders.lay(token, jobs, self.context.folder, marks)
        name = job_name(self.context.installation, token)
        manifest = render_job_array(self.settings, name, self._labels, self._base, handles, needs)
        try:
            await self._wire.ask("POST", self._wire.place("jobs", group=BATCH), manifest)
        except Conflict:
            pass  # our answer was lost on its way
        except (Rejected, Unavailable) as error:
            if isinstance(error, Transient):
                raise
            return dict.fromkeys(handles, str(error))
        await self._folders.tell("note", [f"{handle} {name}/{index}" for index, handle in enumerate(handles)])
        return {}

    async def _remind(self, handle: str, before: Seen) -> bool:
        """Note the Job of a folder whose making was not heard of; return whether there is one."""
        token, _, index = before.token.partition(" ")
        name = job_name(self.context.installation, token)
        try:
            await self._wire.ask("GET", self._wire.place("jobs", name, group=BATCH))
        except NotFound:
            return False
        await self._folders.tell("note", [f"{handle} {name}/{index}"])
        return True

    async def _needs(self, request: Request) -> Needs:
        """Return what a job needs. Raises Rejected where no node has such GPUs."""
        label = ""
        if request.gpus and request.gpu_model:
            labels = {
                node["metadata"].get("labels", {}).get(self.settings.gpu_model, "")
                for node in await self._wire.nodes() or ()
            }
            found = sorted(one for one in labels if request.gpu_model.lower() in one.lower())
            if not found:
                raise Rejected(f"no node has a GPU {request.gpu_model!r:.60}")
            label = found[0]
        return Needs(
            image=request.image or self.settings.image,
            cpus=request.cpus,
            memory=request.memory,
            disk=request.disk,
            gpus=request.gpus,
            gpu_label=label,
            time=request.time,
        )

    def _fits(self, request: Request, node: Document) -> bool:
        """Tell whether a node, were it empty, has what is asked for, and the labels that are."""
        labels = node["metadata"].get("labels", {})
        if any(labels.get(key) != value for key, value in self.settings.node_selector.items()):
            return False
        there = node["status"].get("allocatable", {})
        return (
            parse_cpus(there.get("cpu", 0)) >= request.cpus
            and parse_amount(there.get("memory", 0)) >= request.memory
            and parse_amount(there.get(self.settings.gpu_resource, 0)) >= request.gpus
        )

    def _admit(self, owner: str) -> None:
        if owner not in self.settings.users and not self.settings.share_claim:
            raise Forbidden(
                f"All jobs in {self.context.provider} share one volume, and {owner!r:.60} would see its files.",
                remedy="Name who may in 'users' of this scheduler, or set share_claim.",
            )

    # Looking -------------------------------------------------------------------------------------------------

    def _judge(
        self, handle: str, seen: Seen, pods: Mapping[str, Document], open_: set[str]
    ) -> JobObservation:
        if not seen.there:
            return JobObservation(phase=Phase.GONE)
        pod = pods.get(seen.job)
        cause, words = _why_ended(pod) if pod is not None else (Cause.NONE, "")
        if seen.end is not None:
            self._unsaid.pop(handle, None)
            end = seen.end
            told = cause if end.why == "stopped" or end.signal == 9 else Cause.NONE
            return JobObservation(
                phase=Phase.ENDED, end=end, cause=told or end.cause, detail=end.describe(), begun=True
            )
        state = pod["status"].get("phase", "Pending") if pod is not None else ""
        claimed = seen.begun and state == "Pending"
        hopeless = _hopeless(pod) if pod is not None and state == "Pending" else ""
        if state == "Running" and not seen.begun:
            return JobObservation(phase=Phase.WAITING, detail="its pod starts")
        if state == "Running":
            self._unsaid.pop(handle, None)
            return JobObservation(phase=Phase.RUNNING, begun=True)
        goes_on = state == "Pending" or (not state and seen.job.partition("/")[0] in open_)
        if not seen.job or (goes_on and not claimed and not hopeless):
            return JobObservation(phase=Phase.WAITING, detail=unschedulable(pod) if pod is not None else "")
        now = time.monotonic()
        if now - self._unsaid.setdefault(handle, now) < UNSAID:
            return JobObservation(phase=Phase.RUNNING if seen.begun else Phase.WAITING, begun=seen.begun)
        detail = hopeless or words or "the cluster has no such job any more"
        cause = Cause.REFUSED if hopeless else cause or Cause.MACHINE
        return JobObservation(phase=Phase.ENDED, cause=cause, detail=f"{detail}.", begun=seen.begun)

    async def _jobs(self) -> list[Document]:
        found: list[Document] = await self._wire.list_all(
            self._wire.place("jobs", group=BATCH), self._selector()
        )
        return found

    async def _remove_job(self, job: Document) -> None:
        body = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": job["metadata"]["uid"]},
        }
        with contextlib.suppress(NotFound):
            path = self._wire.place("jobs", job["metadata"]["name"], group=BATCH)
            await self._wire.ask("DELETE", path, body)

    def _selector(self) -> dict[str, str]:
        # The door has the labels, too, but no Job.
        return {"labelSelector": ",".join(f"{key}={value}" for key, value in self._labels.items())}

    # The door ------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if not self._opened:
            await self._wire.open()
            words = (await self._wire.version()).lstrip("v").split(".")
            self._indexed = len(words) > 1 and words[1].isdecimal() and int(words[1]) >= INDEXED
            self._opened = True

    async def _where(self) -> str:
        return self._base

    async def _do(
        self,
        verb: str,
        *words: str,
        input: bytes | Path = b"",
        seconds: float = SECONDS,
        bears: int = 0,
        output: Path | None = None,
    ) -> Done:
        """Run a verb through the door; once more where a kept connection had died unnoticed."""
        for last in (False, True):
            try:
                return await self._verbs(
                    verb, *words, input=input, seconds=seconds, bears=bears, output=output
                )
            except ConnectionLost:
                await self._leave()
                if last:
                    raise
        raise AssertionError("two attempts end in an answer or an error")

    async def _door(self) -> Connection:
        """Return the kept connection to the pod that has the volume; have it made where it is not there."""
        self._used = time.monotonic()
        async with self._opening:
            if self._connection is None:
                self._connection = await self.context.connect(await self._address())
            return self._connection

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(GridcloudError):
                await connection.close()

    async def _address(self) -> PodAddress:
        name = door_name(self.context.installation, self.context.provider)
        deadline = time.monotonic() + OPENING
        while True:
            try:
                pod = await self._wire.pod(name)
            except NotFound:
                manifest = render_door(self.settings, name, self._labels)
                with contextlib.suppress(Conflict):
                    await self._wire.ask("POST", self._wire.place("pods"), manifest)
                continue
            meta, state = pod["metadata"], pod["status"].get("phase", "Pending")
            if state == "Running" and not meta.get("deletionTimestamp"):
                return PodAddress(
                    kubeconfig=self._wire.kubeconfig,
                    context=self._wire.context,
                    namespace=self._wire.name,
                    pod=name,
                    uid=meta["uid"],
                    container=DOOR,
                    directory="/",
                )
            if state in ("Succeeded", "Failed"):
                await self._wire.remove_pod(name, meta["uid"], 0)
            if time.monotonic() > deadline:
                why = _hopeless(pod) or unschedulable(pod) or "it has not started yet"
                raise Transient(f"The pod {name}, through which jobs are reached: {why}.")
            await asyncio.sleep(0.3)


def _element(pod: Document) -> str:
    """By which Job and index a pod runs."""
    labels, notes = pod["metadata"].get("labels") or {}, pod["metadata"].get("annotations") or {}
    return f"{labels.get('job-name', '')}/{notes.get(INDEX, '0')}"


def _is_better(known: Document | None, pod: Document) -> bool:
    """Tell whether a pod says more of its job than one that is known: the newest does."""
    return known is None or _made(known) <= _made(pod)


def _made(pod: Document) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _is_over(job: Document) -> bool:
    ends = ("Complete", "Failed")
    conditions: Iterable[Any] = job.get("status", {}).get("conditions") or ()
    over = any(one["type"] in ends and one["status"] == "True" for one in conditions)
    return over or bool(job["metadata"].get("deletionTimestamp"))


def _hopeless(pod: Document) -> str:
    """Why a pod never starts; "" where it may."""
    for one in pod["status"].get("containerStatuses") or ():
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in NEVER:
            return f"{waiting['reason']}: {waiting.get('message', '')}"[:300]
    return ""


def _why_ended(pod: Document) -> tuple[Cause, str]:
    """Why a pod ended, as far as the cluster knows, and in its words."""
    status = pod["status"]
    for one in status.get("containerStatuses") or ():
        reason = (one.get("state", {}).get("terminated") or {}).get("reason", "")
        if reason in _CAUSES:
            return _CAUSES[reason], f"the cluster says that it is {reason}"
    reason = str(status.get("reason") or "")
    return _CAUSES.get(reason, Cause.NONE), f"{reason}: {status.get('message', '')}"[:300] if reason else ""
