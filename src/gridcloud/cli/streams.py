"""A command on an instance, tied to this program's own standard streams, signals and terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gridcloud.cli.frame import Frame
from gridcloud.client import AsyncClient, RemoteProcess

__all__ = ["run_command"]

CHUNK = 65536
GRACE = 10.0
"""Seconds that an interrupted command has to end by itself before it is killed."""


async def run_command(
    frame: Frame,
    client: AsyncClient,
    instance_id: str,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    terminal: bool = False,
) -> int:
    """Run a command, its bytes untouched; return its exit code.

    The first signal that comes is passed on, a second one ends the command. Without ``terminal`` standard input is
    passed on unless it is a terminal. Raises what kept the command from running, BrokenPipeError when nobody reads.
    """
    environment = dict(environment or {})
    size: tuple[int, int] | None = None
    if terminal:
        environment.setdefault("TERM", os.environ.get("TERM", "xterm"))
        size = shutil.get_terminal_size()
    process = await client.command(instance_id, words, environment=environment, terminal=size)
    feeding: asyncio.Task[None] | None = None
    try:
        with _passing_signals(frame, process), _raw() if terminal else contextlib.nullcontext():
            if terminal:
                _follow_size(process)
            if terminal or not sys.stdin.isatty():
                feeding = asyncio.create_task(_feed(process))
            else:
                await process.close_input()
            await _copy_output(process)
        return process.code
    finally:
        if terminal:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH)
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        await process.close()


async def _copy_output(process: RemoteProcess) -> None:
    async for stream, chunk in process.output():
        descriptor = 1 if stream == "stdout" else 2
        try:
            await asyncio.to_thread(_write_all, descriptor, chunk)
        except BrokenPipeError:
            await process.signal("PIPE")
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody who shares the terminal made it non-blocking
            import select

            select.select([], [descriptor], [])


async def _feed(process: RemoteProcess) -> None:
    """Pass standard input on as it comes, never more than the command takes."""
    while data := await _read_input():
        await process.write(data)
    await process.close_input()


async def _read_input() -> bytes:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(0, lambda: None if ready.done() else ready.set_result(None))
    except (PermissionError, ValueError):  # a file is always ready
        return await asyncio.to_thread(_read_once)
    try:
        await ready
    finally:
        loop.remove_reader(0)
    return _read_once()


def _read_once() -> bytes:
    try:
        return os.read(0, CHUNK)
    except OSError:  # closed, or a terminal whose other end is gone
        return b""


@contextlib.contextmanager
def _passing_signals(frame: Frame, process: RemoteProcess) -> Iterator[None]:
    """Pass signals on to the command; end it when it does not care."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Future[Any]] = set()
    timers: list[asyncio.TimerHandle] = []

    def send(name: str) -> None:
        task = asyncio.ensure_future(process.signal(name))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def take(number: int, count: int) -> None:
        frame.signalled = frame.signalled or number
        if count == 1:
            send(signal.Signals(number).name.removeprefix("SIG"))
            timers.append(loop.call_later(GRACE, send, "KILL"))
        else:
            send("KILL")

    before, frame.on_signal = frame.on_signal, take
    try:
        yield
    finally:
        frame.on_signal = before
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Hand every key to the other side; the terminal is put back whatever happens."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _follow_size(process: RemoteProcess) -> None:
    tasks: set[asyncio.Future[Any]] = set()

    def resize() -> None:
        task = asyncio.ensure_future(process.resize(*shutil.get_terminal_size()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, resize)
