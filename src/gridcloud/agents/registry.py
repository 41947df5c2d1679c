"""The machines that were invited and have joined, in the store: every change by compare-and-set, with its story."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from gridcloud.agents.invitations import key_of, make_token, verify
from gridcloud.agents.membership import Trust
from gridcloud.agents.model import AGENT_NAME, RESERVED, Agent, Caps, State
from gridcloud.clock import Clock
from gridcloud.errors import Conflict, Forbidden, InvalidRequest, NotAuthenticated, NotFound
from gridcloud.identity.credentials import Secret
from gridcloud.store import Entry, Record, Store

__all__ = ["Registry"]

KIND = "agent"
LONGEST = 30 * 86400
"""Seconds that an invitation may wait."""
UNKNOWN = "The token is unknown, used or expired."


class Registry:
    """The machines of one installation. ``trust`` returns its user authority, as machines are to know it."""

    def __init__(self, store: Store, clock: Clock, trust: Callable[[], Trust]) -> None:
        self.trust = trust
        self._store = store
        self._clock = clock

    async def invite(
        self,
        name: str,
        by: str,
        *,
        seconds: int = 86400,
        caps: Caps | None = None,
        labels: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
        instance_of: str = "",
    ) -> tuple[Agent, Secret]:
        """Make a token for one machine of that name; return its record and the token, to show once.

        A name that waits for a machine, or whose machine was removed, may be invited again: the earlier token is worth
        nothing then. ``instance_of``: the provider whose instance it is to be. Raises InvalidRequest, Conflict when a
        machine has the name.
        """
        if not re.fullmatch(AGENT_NAME, name) or name in RESERVED:
            raise InvalidRequest(
                f"{name!r:.60} is no name for a machine.",
                remedy="Use up to 41 of a-z, 0-9 and '-', a letter or digit first.",
            )
        if not 1 <= seconds <= LONGEST:
            raise InvalidRequest(f"An invitation waits 1 second to {timedelta(seconds=LONGEST).days} days.")
        now = self._clock.now()
        invitation = self._clock.new_id("v")
        secret, token_key = make_token(invitation, self.trust().authority)
        agent = Agent(
            name=name,
            labels=dict(labels or {}),
            caps=caps or Caps(),
            invitation=invitation,
            token_key=token_key,
            expires=now + timedelta(seconds=seconds),
            addresses=tuple(_network(one) for one in addresses),
            instance_of=instance_of,
        )
        told = [Entry("invited", f"by {by}, until {agent.expires:%Y-%m-%d %H:%M} UTC")]
        try:
            record = await self._store.get(KIND, name)
        except NotFound:
            await self._store.insert(KIND, name, by, agent.state, _body(agent), told)
            return agent, secret
        if record.state not in (State.INVITED, State.REMOVED) or (
            instance_of and _agent(record).instance_of != instance_of
        ):
            raise Conflict(
                f"There is a machine {name} already.",
                remedy="Take another name, or remove that machine first.",
            )
        await self._store.update(record, state=agent.state, body=_body(agent), events=told)
        return agent, secret

    async def admit(self, invitation: str, line: str, proofs: tuple[str, str], address: str) -> Agent:
        """Let a machine with this public key line join by its invitation, from a network address.

        The same key may ask again, and is told the same. Raises NotAuthenticated, Untrusted, Forbidden.
        """
        named = await self._store.scan(
            KIND, lambda record: record if record.body.get("invitation") == invitation else None
        )
        record = next((one for one in named if one is not None), None)
        if record is None:
            raise NotAuthenticated(UNKNOWN, remedy="Ask for a new invitation.")
        agent = _agent(record)
        # A token that was made before the authority was rotated names the earlier one.
        *earlier, last = reversed(self.trust().authorities())
        for authority in earlier:
            with contextlib.suppress(NotAuthenticated):
                verify(invitation, authority, line, agent.token_key, proofs)
                break
        else:
            verify(invitation, last, line, agent.token_key, proofs)
        line = key_of(line)
        if agent.host_key:
            return await self._again(record, agent, line, address)
        now = self._clock.now()
        if agent.state is not State.INVITED or agent.expires is None or agent.expires <= now:
            raise NotAuthenticated(UNKNOWN, remedy="Ask for a new invitation.")
        if agent.addresses and not _is_within(address, agent.addresses):
            await self._tell(record, "refused", f"its token was shown from {address}, where it is not valid")
            raise Forbidden(
                f"The token of {agent.name} is not valid from {address}.",
                remedy=f"Join from {', '.join(agent.addresses)}, or ask for another invitation.",
            )
        joined = agent.model_copy(
            update={"state": State.JOINED, "host_key": line, "joined": now, "joined_from": address}
        )
        try:
            await self._store.update(
                record,
                state=joined.state,
                body=_body(joined),
                events=[Entry("joined", f"from {address}, key {line.split()[1][-16:]}")],
            )
        except Conflict:  # somebody was quicker: perhaps the same machine
            return await self.admit(invitation, line, proofs, address)
        return joined

    async def _again(self, record: Record, agent: Agent, line: str, address: str) -> Agent:
        if agent.host_key == line and agent.state in (State.JOINED, State.DRAINING):
            return agent
        when = f"{agent.joined:%Y-%m-%d %H:%M} UTC" if agent.joined else "an unknown time"
        await self._tell(
            record, "refused", f"its token was shown again from {address}, by a machine with another key"
        )
        raise NotAuthenticated(
            f"The token of {agent.name} was used at {when}, from {agent.joined_from}.",
            remedy="If that was not you, tell whoever invited you: somebody else has the token.",
        )

    async def get(self, name: str) -> Agent:
        """Return one machine. Raises NotFound."""
        try:
            return _agent(await self._store.get(KIND, name))
        except NotFound:
            raise NotFound(f"There is no machine {name!r:.60}.", remedy="gridcloud agent list") from None

    async def all(self) -> list[Agent]:
        """Return all machines, oldest first, those that were removed too."""
        return [_agent(record) for record in await self._store.find(KIND)]

    async def label(self, name: str, labels: Mapping[str, str | None]) -> Agent:
        """Set labels; a value of None takes one away. Raises NotFound, InvalidRequest."""

        def change(agent: Agent) -> Agent:
            changed = {**agent.labels, **{key: value for key, value in labels.items() if value is not None}}
            kept = {key: value for key, value in changed.items() if labels.get(key, "") is not None}
            try:
                return Agent.model_validate({**agent.model_dump(), "labels": kept})
            except ValueError as error:
                raise InvalidRequest(f"These labels cannot be: {error}") from None

        return await self._change(name, change, "labelled", ", ".join(sorted(labels)))

    async def drain(self, name: str, by: str, *, draining: bool = True) -> Agent:
        """Give the machine nothing new, or again what it can do. Raises NotFound, InvalidRequest."""

        def change(agent: Agent) -> Agent:
            if agent.state not in (State.JOINED, State.DRAINING):
                raise InvalidRequest(f"The machine {name} is {agent.state}.")
            return agent.model_copy(update={"state": State.DRAINING if draining else State.JOINED})

        return await self._change(name, change, "draining" if draining else "resumed", f"by {by}")

    async def remove(self, name: str, by: str) -> Agent:
        """Have the machine end everything and leave. Removing it twice succeeds. Raises NotFound."""
        return await self._change(
            name,
            lambda agent: agent.model_copy(update={"state": State.REMOVED, "token_key": ""}),
            "removed",
            f"by {by}",
        )

    async def forget(self, name: str, instance_of: str) -> None:
        """Know what was an instance of a provider no longer; nothing where none is known.

        Raises Forbidden where the name is not that of an instance of this provider.
        """
        while True:
            try:
                record = await self._store.get(KIND, name)
                if not instance_of or _agent(record).instance_of != instance_of:
                    raise Forbidden(f"The machine {name} is no instance of {instance_of!r:.60}.")
                await self._store.delete(
                    record, [Entry("forgotten", f"its instance of {instance_of} has ended")]
                )
                return
            except Conflict:
                continue
            except NotFound:
                return

    async def saw(
        self, name: str, address: str, what: str, words: str, own_labels: Mapping[str, str] | None = None
    ) -> Agent:
        """Note that a machine came, with its owner's labels, or went; return what is known of it now."""

        def change(agent: Agent) -> Agent:
            now = {"last_seen": self._clock.now(), "last_from": address}
            return agent.model_copy(
                update=now | ({"own_labels": dict(own_labels)} if own_labels is not None else {})
            )

        return await self._change(name, change, what, words)

    async def _change(self, name: str, change: Any, what: str, words: str) -> Agent:
        while True:
            try:
                record = await self._store.get(KIND, name)
            except NotFound:
                raise NotFound(f"There is no machine {name!r:.60}.", remedy="gridcloud agent list") from None
            agent: Agent = change(_agent(record))
            try:
                await self._store.update(
                    record, state=agent.state, body=_body(agent), events=[Entry(what, words)]
                )
            except Conflict:
                continue
            return agent

    async def _tell(self, record: Record, what: str, words: str) -> None:
        await self._store.append(KIND, record.id, record.owner, [Entry(what, words)])


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise InvalidRequest(f"{text!r:.60} is no network: {error}.", remedy="Write 192.0.2.0/24.") from None


def _is_within(address: str, networks: Sequence[str]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in ipaddress.ip_network(one) for one in networks)


def _body(agent: Agent) -> dict[str, Any]:
    return agent.model_dump(mode="json", exclude={"name", "state"})


def _agent(record: Record) -> Agent:
    return Agent.model_validate({**record.body, "name": record.id, "state": record.state})
