"""An instance for as long as it is needed: got, kept through interruptions, and given back whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gridcloud.cli.frame import Frame
from gridcloud.cli.steps import Steps
from gridcloud.client import AsyncClient
from gridcloud.errors import GridcloudError, NoOffer
from gridcloud.finishing import until_done
from gridcloud.instances.model import FINAL, Instance, Request, State
from gridcloud.service.documents import Event

__all__ = ["borrowed", "obtain", "stop_and_wait"]


@asynccontextmanager
async def borrowed(
    frame: Frame,
    client: AsyncClient,
    request: Request,
    *,
    name: str = "",
    configure: Sequence[Mapping[str, Any]] = (),
    before_end: Sequence[str] = (),
    avoid: Sequence[str] = (),
    keep: bool = False,
) -> AsyncIterator[Instance]:
    """Yield a ready instance and stop it afterwards, unless ``keep`` and nothing interrupted its start."""
    instance = await obtain(
        frame, client, request, name=name, configure=configure, before_end=before_end, avoid=avoid
    )
    try:
        yield instance
    finally:
        if keep:
            with Steps(frame) as steps:
                steps.tell(f"Instance {instance.id} is kept; end it: gridcloud instance stop {instance.id}")
        else:
            await stop_and_wait(frame, client, instance.id)


async def obtain(
    frame: Frame,
    client: AsyncClient,
    request: Request,
    *,
    name: str = "",
    configure: Sequence[Mapping[str, Any]] = (),
    before_end: Sequence[str] = (),
    avoid: Sequence[str] = (),
) -> Instance:
    """Return a ready instance, showing its steps; what fails or is interrupted leaves none behind."""
    # The wish may be stored although the answer never reached us: its answer is always waited for.
    starting = asyncio.ensure_future(
        client.start(request, name=name, configure=configure, before_end=before_end, avoid=avoid)
    )
    cancelled = await until_done(starting)
    instance = starting.result()
    try:
        if cancelled:
            raise asyncio.CancelledError
        return await _await_ready(frame, client, instance.id)
    except BaseException:
        await stop_and_wait(frame, client, instance.id)
        raise


async def stop_and_wait(frame: Frame, client: AsyncClient, instance_id: str) -> None:
    """Have an instance end and wait for it, whatever signals come.

    Asked to hurry, it leaves the end to a service that runs; where there is none it stays until the third signal: the
    wish is stored, and the next command carries it out.
    """

    async def work() -> None:
        if (await client.instance(instance_id)).state in FINAL:
            return
        with Steps(frame, f"Stopping {instance_id}") as steps:
            await client.stop(instance_id)
            stopped.set()
            ended = await client.wait_ended(instance_id)
            steps.tell(f"Stopped {instance_id}: {ended.detail or 'nothing is left of it.'}", style="dim")

    def take(number: int, count: int) -> None:
        frame.signalled = frame.signalled or number
        hurry.append(number)
        if stopped.is_set() and (not client.embedded or len(hurry) > 1):
            task.cancel()

    stopped = asyncio.Event()
    hurry: list[int] = []
    task = asyncio.ensure_future(work())
    before, frame.on_signal = frame.on_signal, take
    try:
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
    except GridcloudError as error:
        with Steps(frame) as steps:
            steps.tell(f"Instance {instance_id} could not be stopped: {error} Try 'gridcloud doctor --mend'.")
    finally:
        frame.on_signal = before


async def _await_ready(frame: Frame, client: AsyncClient, instance_id: str) -> Instance:
    """Show the steps until it is ready; people are not told twice that nothing fits."""
    held: list[Event] = []

    def take(event: Event) -> None:
        if event.type == State.FAILED and not frame.json:
            held.append(event)
        else:
            steps.event(event)

    with Steps(frame, "Looking for an offer") as steps:
        try:
            return await client.wait_ready(instance_id, take)
        except NoOffer as error:
            if held and held[-1].message.startswith(error.message):
                error.remedy = held.pop().message.removeprefix(error.message).strip()
            raise
        finally:
            for event in held:
                steps.event(event)
