"""What the ``kubernetes`` scheduler has made: Jobs, and the pod through which their folders are reached. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from gridcloud.drivers.kubernetes_pods import (
    POWERLESS,
    PodSettings,
    check_name,
    digest_of,
    label_value,
    place,
    secure,
    short,
)
from gridcloud.drivers.kubernetes_quantities import format_cpus
from gridcloud.jobs.driver import SchedulerSettings
from gridcloud.jobs.frame import MARK

__all__ = [
    "DOOR",
    "FOLDER",
    "HANDLES",
    "JOBS",
    "KubernetesJobsSettings",
    "Needs",
    "door_name",
    "handles_of",
    "job_name",
    "labels_of",
    "render_door",
    "render_job_array",
]

JOBS = "gridcloud.io/jobs"
"""The label with our owner tag: another than that of instances, so that neither is taken for the other."""
SCHEDULER = "gridcloud.io/scheduler"
HANDLES = "gridcloud.io/handles"
"""Annotation: the handles of the jobs, in the order of their indexes."""
DOOR = "door"
FOLDER = "/gridcloud/jobs"
"""Where the volume is in every pod."""
SPARE = 32 << 20
"""Bytes beyond what a job may use, so that its frame can say what happened."""
MARGIN = 120
"""Seconds likewise."""
GRACE = 30
"""Seconds from a pod's being told to end to its end: a frame asks its job first, and then writes how it ended."""
DOOR_LIFE = 24 * 3600

# The first process of a job's pod takes in orphans, passes on the word to end, and always ends well: how the job ended
# its frame writes down, and the cluster is to begin nothing again that has begun.
RUN = f"""
base=$1; shift
shift "${{JOB_COMPLETION_INDEX:-0}}"
export {MARK}="$1"
trap 'kill -s TERM "$frame" 2>/dev/null' TERM INT
sh "$base/$1/frame" "$base/$1" & frame=$!
while kill -s 0 "$frame" 2>/dev/null; do wait "$frame"; done
exit 0
"""
STAY = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"


class KubernetesJobsSettings(PodSettings, SchedulerSettings):
    """Settings of one namespace of one cluster, as what runs jobs."""

    place: ClassVar[tuple[str, ...]] = ("kubeconfig", "context", "namespace", "claim")

    claim: str = Field(
        min_length=1,
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        description="claim, in that namespace, of the volume for the jobs' folders; one that several nodes can write "
        "(ReadWriteMany), where jobs are to run on several",
    )
    array: int = Field(default=1000, ge=1, le=10_000, description="jobs in one indexed Job at most")
    at_once: int = Field(default=100, ge=1, le=10_000, description="pods of one indexed Job at once, at most")
    users: tuple[str, ...] = Field(default=(), description="users who may have jobs")
    share_claim: bool = Field(
        default=False,
        description="let everybody have jobs: all have the same volume, and each can read the others' files",
    )


@dataclass(frozen=True, slots=True)
class Needs:
    """What the jobs of one Job need."""

    image: str
    cpus: float
    memory: int
    disk: int
    gpus: int
    gpu_label: str
    """The model of the GPUs, as nodes are labelled; empty: any."""
    time: int


def job_name(installation: str, token: str) -> str:
    """Return the name of a Job: its token is random, so that what was asked for once is made once."""
    return f"gridcloud-{short(installation)}-{token}"


def door_name(installation: str, scheduler: str) -> str:
    """Return the name of the pod through which folders are reached."""
    return f"gridcloud-{short(installation)}-door-{digest_of(scheduler)[:10]}"


def labels_of(installation: str, scheduler: str) -> dict[str, str]:
    """Return the labels of everything that a scheduler makes."""
    return {JOBS: label_value(installation), SCHEDULER: label_value(scheduler)}


def handles_of(job: Mapping[str, Any]) -> list[str]:
    """Return the handles of a Job's jobs."""
    try:
        found = json.loads(job["metadata"]["annotations"][HANDLES])
    except (KeyError, TypeError, ValueError):
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def render_job_array(
    settings: KubernetesJobsSettings,
    name: str,
    labels: Mapping[str, str],
    base: str,
    handles: Sequence[str],
    needs: Needs,
) -> dict[str, Any]:
    """Return the manifest of a Job: indexed, with a pod for each of several jobs. It holds nothing secret."""
    amounts = {"cpu": format_cpus(needs.cpus), "memory": str(needs.memory + SPARE)}
    if needs.gpus:
        amounts[settings.gpu_resource] = str(needs.gpus)
    if needs.disk:
        amounts["ephemeral-storage"] = str(needs.disk)
    threads = {"name": "OMP_NUM_THREADS", "value": str(max(1, math.floor(needs.cpus)))}
    container = _container(settings, "job", needs.image, ["/bin/sh", "-c", RUN, "gridcloud", base, *handles])
    container |= {"resources": {"requests": amounts, "limits": amounts}}
    container["env"] = [threads, {"name": "HOME", "value": "/tmp"}]  # noqa: S108 (the pod's own)
    pod = _pod(settings, container, needs.gpu_label if needs.gpus else "")
    if needs.time:
        pod["activeDeadlineSeconds"] = needs.time + MARGIN
    spec: dict[str, Any] = {
        # A pod that was lost before it began is made again; of one that had begun the next ends at once.
        "backoffLimit": 6 + len(handles),
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }
    if len(handles) > 1:
        spec |= {
            "completionMode": "Indexed",
            "completions": len(handles),
            "parallelism": min(len(handles), settings.at_once),
        }
    notes = {HANDLES: json.dumps(list(handles))}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": dict(labels), "annotations": notes},
        "spec": spec,
    }


def render_door(settings: KubernetesJobsSettings, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the manifest of the pod through which folders are reached."""
    container = _container(settings, DOOR, settings.image, ["/bin/sh", "-c", STAY])
    container["resources"] = {
        "requests": {"cpu": "20m", "memory": "64Mi"},
        "limits": {"cpu": "1", "memory": "256Mi"},
    }
    pod = _pod(settings, container, "") | {"activeDeadlineSeconds": DOOR_LIFE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": pod,
    }


def _container(
    settings: KubernetesJobsSettings, name: str, image: str, command: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.pull,
        "command": list(command),
        "securityContext": POWERLESS,
        "volumeMounts": [{"name": "jobs", "mountPath": FOLDER}],
    }


def _pod(settings: KubernetesJobsSettings, container: dict[str, Any], gpu_label: str) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": bool(settings.service_account),
        "enableServiceLinks": False,
        "securityContext": secure(settings.run_as_user),
        "containers": [container],
        "volumes": [{"name": "jobs", "persistentVolumeClaim": {"claimName": check_name(settings.claim)}}],
        **place(settings, gpu_label),
    }
