"""What a pod is now: pure, from its document and its events to a phase and the cluster's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gridcloud.drivers.instances.kubernetes_manifests import CONTAINER
from gridcloud.drivers.kubernetes_pods import NEVER, unschedulable, when
from gridcloud.instances.model import Phase

__all__ = [
    "age_of",
    "awaits_volume",
    "has_stopped",
    "phase_of",
    "why_not_pulled",
]

Document = Mapping[str, Any]

BINDING = 300
"""Seconds that a volume may take to be made: clouds attach and format disks meanwhile."""

REFUSED = ("not found", "denied", "unauthorized", "manifest unknown", "no match for platform")
"""What a registry says of an image that will not come, in its answer to the first try."""


def phase_of(pod: Document, *, queue: float, now: datetime) -> tuple[Phase, str]:
    """Return what a pod is and why. ``queue``: seconds that it may wait for a node."""
    status, detail = pod.get("status", {}), ""
    if pod["metadata"].get("deletionTimestamp"):
        return Phase.GONE, f"the cluster is removing it: {_say(status) or 'somebody asked for that'}"
    phase = status.get("phase", "Pending")
    container = _container(status)
    if phase == "Pending":
        waiting = container.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        detail = ": ".join(filter(None, (reason, message)))
        if why := unschedulable(pod):
            late = age_of(pod, now) > (max(queue, BINDING) if awaits_volume(why) else queue)
            return (
                (Phase.FAILED, f"no node has room: {why}")
                if late
                else (Phase.PENDING, f"waits for a node: {why}")
            )
        refused = reason == "ErrImagePull" and any(word in message.lower() for word in REFUSED)
        if reason in NEVER or refused:
            return Phase.FAILED, detail
        return Phase.PENDING, detail or _unmet(status) or "it was not given a node yet"
    if phase == "Running":
        state = container.get("state", {})
        if "running" in state:
            # Nothing else makes a running container unready: it has no probe of its own.
            ready = {one["type"]: one["status"] for one in status.get("conditions") or ()}.get(
                "Ready", "True"
            )
            place = pod["spec"].get("nodeName", "a node")
            words = (
                "runs on {}"
                if ready == "True" and status.get("reason") != "NodeLost"
                else "its node {} does not answer"
            )
            return Phase.RUNNING, words.format(place)
        if "terminated" not in state:
            return Phase.PENDING, "its container starts"
    if phase == "Unknown":
        return Phase.RUNNING, f"its node {pod['spec'].get('nodeName', '')} does not answer"
    return Phase.GONE, _why_ended(status, container)


def has_stopped(pod: Document) -> bool:
    """Tell whether its node has said that all of its containers have ended."""
    status = pod.get("status", {})
    states = [one.get("state", {}) for one in status.get("containerStatuses") or ()]
    return status.get("phase") in ("Succeeded", "Failed") or (
        bool(states) and all("terminated" in state for state in states)
    )


def awaits_volume(why: str) -> bool:
    """Tell whether the scheduler only waits until a home's volume is made: no node would do better."""
    return "unbound immediate PersistentVolumeClaims" in why


def why_not_pulled(events: Iterable[Document]) -> str:
    """Return what the registry or the network said when an image was asked for, which "back-off" does not tell; ""
    where nothing is known of it."""
    tried = [event for event in events if "ailed to pull" in str(event.get("message"))]
    return str(max(tried, key=when)["message"])[:500] if tried else ""


def age_of(pod: Document, now: datetime) -> float:
    """Return the seconds since a pod was made."""
    made = pod["metadata"].get("creationTimestamp")
    if not made:
        return 0
    return (now - datetime.fromisoformat(made).astimezone(UTC)).total_seconds()


def _container(status: Document) -> Document:
    for one in status.get("containerStatuses") or ():
        if one.get("name") == CONTAINER:
            found: Document = one
            return found
    return {}


def _why_ended(status: Document, container: Document) -> str:
    ended = container.get("state", {}).get("terminated") or {}
    if status.get("reason") == "DeadlineExceeded":
        return "the longest life that is allowed is over"
    if status.get("reason"):
        return _say(status)  # Evicted, NodeShutdown, …
    if ended.get("reason") == "OOMKilled":
        return "it used more memory than it has and was killed"
    if ended.get("exitCode") == 0:
        return "it ended by itself: its time is over"
    return f"it ended with exit code {ended.get('exitCode', 'unknown')} {ended.get('message', '')}".strip()


def _say(status: Document) -> str:
    return ": ".join(filter(None, (str(status.get("reason") or ""), str(status.get("message") or ""))))


def _unmet(status: Document) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    return ""
