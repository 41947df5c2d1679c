"""The machines that dial us, as drivers of instances see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gridcloud.agents.model import Caps, Report, State
from gridcloud.agents.registry import Registry
from gridcloud.agents.switchboard import Switchboard
from gridcloud.identity.credentials import Secret
from gridcloud.instances.driver import JoinedMachine

__all__ = ["Listing"]


class Listing:
    """What `instances.driver.Agents` asks for."""

    def __init__(self, registry: Registry, switchboard: Switchboard) -> None:
        self._registry = registry
        self._switchboard = switchboard

    async def machines(self) -> Sequence[JoinedMachine]:
        """Return all that have joined, those that were removed too."""
        present = self._switchboard.present()
        reports = {name: presence.report for name, presence in present.items()}
        return [
            JoinedMachine(
                name=agent.name,
                labels=agent.all_labels,
                host_key=agent.host_key,
                socket=str(self._switchboard.socket_to(agent.name)),
                draining=agent.state is State.DRAINING,
                removed=agent.state is State.REMOVED,
                load=_load(reports.get(agent.name)),
                why_not=self._switchboard.absence(agent.name),
                instance_of=agent.instance_of,
                directory=_said(reports.get(agent.name), "directory"),
                home=_said(reports.get(agent.name), "home"),
            )
            for agent in await self._registry.all()
            if agent.host_key
        ]

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        """Have one do something; see `instances.driver.Agents`."""
        return await self._switchboard.call(name, call, arguments, timeout)

    async def invite(
        self,
        name: str,
        provider: str,
        *,
        seconds: int,
        caps: Mapping[str, float],
        addresses: Sequence[str] = (),
    ) -> Secret:
        """Return a token for one instance of a provider; see `instances.driver.Agents`."""
        _, token = await self._registry.invite(
            name,
            provider,
            seconds=seconds,
            caps=Caps.model_validate(dict(caps)),
            addresses=addresses,
            instance_of=provider,
        )
        return token

    async def forget(self, name: str, provider: str) -> None:
        """Cut off one instance of a provider and know it no longer; see `instances.driver.Agents`."""
        await self._registry.forget(name, provider)
        await self._switchboard.forget(name)


def _said(report: Report | None, what: str) -> str:
    return str(getattr(report, what)) if report is not None else ""


def _load(report: Report | None) -> float:
    return report.load / max(report.capacity.cpus or 1, 1) if report is not None else 0
