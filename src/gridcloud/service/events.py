"""Events as server-sent streams that can be resumed: ``id`` of each is its place in the story."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Set
from enum import StrEnum
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from gridcloud.clusters.model import FINAL as CLUSTER_FINAL
from gridcloud.instances.model import FINAL as INSTANCE_FINAL
from gridcloud.jobs.model import FINAL as JOB_FINAL
from gridcloud.jobs.model import ArrayState
from gridcloud.service.access import Asking, TheHouse
from gridcloud.service.clusters import owned as owned_cluster
from gridcloud.service.instances import owned as owned_instance
from gridcloud.service.jobs import owned as owned_job
from gridcloud.service.sessions import owned as owned_session
from gridcloud.service.stacks import owned as owned_stack
from gridcloud.sessions.model import FINAL as SESSION_FINAL
from gridcloud.stacks.model import FINAL as STACK_FINAL
from gridcloud.store import Event

__all__ = ["router"]

router = APIRouter(tags=["events"])

HEARTBEAT = 15.0
"""Seconds of silence after which a comment line shows that the stream lives."""

END = b": end\n\n"
"""The comment that ends a story told to its end; a stream without it was cut, and can be taken up again."""

Place = Annotated[int, Query(ge=0, le=2**63 - 1)]
LastSeen = Annotated[int, Header(alias="Last-Event-ID", ge=0, le=2**63 - 1)]


async def _place(after: Place = 0, last_event_id: LastSeen = 0) -> int:
    return max(after, last_event_id)


After = Annotated[int, Depends(_place)]
"""The event after which a story goes on: that of the query, or the one seen last before the stream was cut."""


@router.get("/instances/{instance_id}/events")
async def of_instance(
    instance_id: str,
    caller: Asking,
    house: TheHouse,
    after: After,
    follow: bool = False,
) -> StreamingResponse:
    """Tell an instance's story from ``after`` (or Last-Event-ID) on; with ``follow`` until it has ended."""
    instance = await owned_instance(house, caller, instance_id)
    return _story(house, instance, INSTANCE_FINAL, {instance_id}, follow, after)


@router.get("/sessions/{session_id}/events")
async def of_session(
    session_id: str,
    caller: Asking,
    house: TheHouse,
    after: After,
    follow: bool = False,
) -> StreamingResponse:
    """Tell a session's story, its instance's included."""
    session = await owned_session(house, caller, session_id)
    subjects = {session_id, session.instance_id}
    return _story(house, session, SESSION_FINAL, subjects, follow, after)


@router.get("/stacks/{stack_id}/events")
async def of_stack(
    stack_id: str,
    caller: Asking,
    house: TheHouse,
    after: After,
    follow: bool = False,
) -> StreamingResponse:
    """Tell a stack's story; those of its instances are told by themselves."""
    stack = await owned_stack(house, caller, stack_id, gone=True)
    return _story(house, stack, STACK_FINAL, {stack.id}, follow, after)


@router.get("/clusters/{cluster_id}/events")
async def of_cluster(
    cluster_id: str,
    caller: Asking,
    house: TheHouse,
    after: After,
    follow: bool = False,
) -> StreamingResponse:
    """Tell a cluster's story."""
    cluster = await owned_cluster(house, caller, cluster_id)
    return _story(house, cluster, CLUSTER_FINAL, {cluster.id}, follow, after)


@router.get("/jobs/{job_id}/events")
async def of_job(
    job_id: str,
    caller: Asking,
    house: TheHouse,
    after: After,
    follow: bool = False,
) -> StreamingResponse:
    """Tell the story of a job, or of an array; those of its jobs are told by themselves."""
    found = await owned_job(house, caller, job_id)
    return _story(house, found, {*JOB_FINAL, ArrayState.ENDED}, {found.id}, follow, after)


@router.get("/events")
async def of_all(caller: Asking, house: TheHouse, after: After, follow: bool = False) -> StreamingResponse:
    """Tell everything that happened to one's own things, or to everybody's for an administrator."""
    owner = None if caller.admin else caller.user
    return _stream(house, owner, None, "", set(), follow, after)


class _Living(Protocol):
    """What has a story with an end."""

    @property
    def id(self) -> str: ...

    @property
    def owner(self) -> str: ...

    @property
    def state(self) -> StrEnum: ...


def _story(
    house: TheHouse, of: _Living, final: Set[StrEnum], subjects: set[str], follow: bool, after: int
) -> StreamingResponse:
    """Tell the story of something; who has seen its last event already would wait for ever."""
    ends = {str(state) for state in final}
    return _stream(house, of.owner, subjects, of.id, ends, follow and str(of.state) not in ends, after)


def _stream(
    house: TheHouse,
    owner: str | None,
    subjects: set[str] | None,
    main: str,
    ends: set[str],
    follow: bool,
    after: int,
) -> StreamingResponse:
    def wanted(event: Event) -> bool:
        return subjects is None or event.subject in subjects

    def last(event: Event) -> bool:
        return event.subject == main and event.type in ends

    body = _follow(house, owner, after, wanted, last) if follow else _replay(house, owner, after, wanted)
    return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _replay(
    house: TheHouse, owner: str | None, after: int, wanted: Callable[[Event], bool]
) -> AsyncIterator[bytes]:
    while page := await house.store.events(owner=owner, after=after):
        for event in page:
            after = event.seq
            if wanted(event):
                yield _line(event)
    yield END


async def _follow(
    house: TheHouse,
    owner: str | None,
    after: int,
    wanted: Callable[[Event], bool],
    last: Callable[[Event], bool],
) -> AsyncIterator[bytes]:
    source = house.store.watch(owner=owner, after=after)
    waiting: asyncio.Task[Event] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            finally:
                waiting = None
            if wanted(event):
                yield _line(event)
            if last(event):
                yield END
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await source.aclose()  # type: ignore[attr-defined]  # an async generator, typed as what it gives


def _line(event: Event) -> bytes:
    document: dict[str, Any] = {
        "seq": event.seq,
        "kind": event.kind,
        "subject": event.subject,
        "at": event.at.isoformat(),
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(document)}\n\n".encode()
