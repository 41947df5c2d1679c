"""What drivers share whose instances run an agent that dials us: where it dials, its invitation, its address."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gridcloud.connections.model import SSHAddress
from gridcloud.errors import InvalidSettings, Unavailable
from gridcloud.identity.credentials import Secret
from gridcloud.identity.keys import write_whole
from gridcloud.instances.driver import Context, JoinedMachine
from gridcloud.instances.model import Handle, Observation, Phase, Request

__all__ = [
    "AgentBoot",
    "AgentDoor",
    "ProxyURL",
    "ServiceURL",
    "address_of",
    "by_agent",
    "dials",
    "find_machines",
    "forget",
    "found_by_agents",
    "invite",
    "invite_once",
    "mark",
    "prepared_agent",
    "read_authorities",
]

TOKEN = 86400
"""Seconds that a token is good, beside the time that its instance may wait for a place."""


def _check_url(url: str) -> str:
    if not url.startswith("https://") or not url.isprintable() or " " in url or "@" in url:
        raise ValueError("must be https://HOST:PORT")
    return url.rstrip("/")


def _check_proxy(proxy: str) -> str:
    # It stands in the command of a job or a pod, which others on its node can see.
    user = re.sub(r"^\w+://", "", proxy.rpartition("@")[0])
    if ":" in user or not proxy.isprintable():
        raise ValueError("must be http://HOST:PORT, without a password: others would see it")
    return proxy


ServiceURL = Annotated[str, AfterValidator(_check_url)]
ProxyURL = Annotated[str, AfterValidator(_check_proxy)]


class AgentDoor(BaseModel):
    """Where the agent of an instance dials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: ServiceURL = Field(description="HTTPS address of this gridcloud's service, as instances reach it")
    ca: Path | None = Field(
        default=None,
        description="file of the authorities that instances believe (PEM); the system's otherwise",
    )
    proxy: ProxyURL = Field(default="", description="HTTP proxy that instances go through, http://HOST:PORT")
    networks: tuple[str, ...] = Field(
        default=(), description="networks (CIDR) that instances come from; any otherwise"
    )
    command: tuple[str, ...] = Field(
        default=("gridcloud",), min_length=1, description="gridcloud there, with arguments"
    )


@dataclass(frozen=True, slots=True)
class AgentBoot:
    """An agent that a machine begins at its first boot, with its token and what it believes (PEM; the system's
    authorities where there is nothing)."""

    door: AgentDoor
    token: Secret
    authorities: bytes = b""


async def invite(
    context: Context, instance_id: str, request: Request, networks: tuple[str, ...], wait: int = 0
) -> Secret:
    """Return the token of an instance; what was known of a former life of it is forgotten."""
    await context.agents.forget(instance_id, context.provider)
    return await context.agents.invite(
        instance_id,
        context.provider,
        seconds=TOKEN + wait,
        caps={"cpus": request.cpus, "memory": request.memory, "gpus": request.gpus},
        addresses=networks,
    )


async def invite_once(
    context: Context, instance_id: str, request: Request, networks: tuple[str, ...]
) -> Secret:
    """Return the token of an instance, the same each time until it is forgotten: for what is made by one document that
    must not differ when it is asked for again. It is kept in the provider's private folder (0600)."""
    path = _kept(context, instance_id)
    with contextlib.suppress(FileNotFoundError):
        return Secret(await asyncio.to_thread(path.read_text))
    token = await invite(context, instance_id, request, networks)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(write_whole, path, token.reveal().encode(), 0o600)
    return token


@contextlib.asynccontextmanager
async def prepared_agent(
    context: Context, instance_id: str, request: Request, door: AgentDoor | None
) -> AsyncIterator[AgentBoot | None]:
    """Give the agent of an instance, invited, while it is made; nothing where it dials nowhere. Where there is no room,
    nobody is asked to remove what was not made: its invitation goes here. Raises InvalidSettings."""
    if door is None:
        yield None
        return
    token = await invite_once(context, instance_id, request, door.networks)
    try:
        yield AgentBoot(door, token, await read_authorities(door.ca))
    except Unavailable:
        await forget(context, instance_id)
        raise


async def forget(context: Context, instance_id: str) -> None:
    """Cut off what runs as an instance, and forget its token. May be asked of what never was."""
    await context.agents.forget(instance_id, context.provider)
    await asyncio.to_thread(_kept(context, instance_id).unlink, missing_ok=True)


def _kept(context: Context, instance_id: str) -> Path:
    return context.folder / "invited" / instance_id


async def read_authorities(path: Path | None) -> bytes:
    """Return a file of authorities; empty where none is named. Raises InvalidSettings."""
    if path is None:
        return b""
    try:
        return await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror}.") from error


async def find_machines(context: Context) -> dict[str, JoinedMachine]:
    """Return the agents that are instances of this provider, by the instances' ids."""
    machines = await context.agents.machines()
    return {one.name: one for one in machines if one.instance_of == context.provider}


def address_of(machine: JoinedMachine) -> SSHAddress:
    """Return the way to an instance whose agent is connected."""
    return SSHAddress(
        host=machine.name,
        socket=machine.socket,
        user=machine.name,
        principal=f"gridcloud-{machine.name}",
        host_keys=(machine.host_key,),
        directory=machine.directory,
        home=machine.home,
    )


def mark(handle: Handle, door: AgentDoor | None) -> Handle:
    """Return the handle of a machine that is reached by its agent, where it dials anywhere."""
    return Handle(data={**handle.data, "agent": True}) if door else handle


def dials(handle: Handle) -> bool:
    """Say whether a machine is reached by its agent: it was made so, whatever the settings say now."""
    return bool(handle.data.get("agent"))


async def found_by_agents(
    context: Context, handles: Mapping[str, Handle], seen: Mapping[str, Observation]
) -> Mapping[str, Observation]:
    """Return what was seen, with the ways to machines whose agents dial us; one that runs and has not connected is
    PENDING."""
    dialling = {one for one in seen if dials(handles[one])}
    machines = await find_machines(context) if dialling else {}
    return {
        one: by_agent(looked, machines.get(one), "it runs") if one in dialling else looked
        for one, looked in seen.items()
    }


def by_agent(seen: Observation, machine: JoinedMachine | None, runs: str) -> Observation:
    """Return what is seen of an instance whose agent dials us; ``runs``: how it is told that it runs."""
    if seen.phase is not Phase.RUNNING:
        return seen
    if machine is None or machine.why_not:
        why = machine.why_not if machine else "its agent has not connected yet"
        return Observation(phase=Phase.PENDING, detail=f"{runs}, and {why}")
    return seen.model_copy(update={"address": address_of(machine)})
