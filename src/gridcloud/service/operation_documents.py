"""Documents of what administrators see of a running service."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

__all__ = ["Alive", "Condition", "Overview", "ProviderCondition", "Ready", "Row"]


class Alive(BaseModel):
    """All that is told to whoever asks whether the service lives."""

    alive: bool = True


class Ready(BaseModel):
    """All that is told to whoever asks whether the service can do its work."""

    ready: bool
    store: bool = Field(description="whether the store answers")


class ProviderCondition(BaseModel):
    """What a provider said when it was last asked for offers."""

    name: str
    asked: datetime | None = Field(default=None, description="None: not since the service was started")
    problem: str = Field(default="", description="why it could not say; empty: it answered")


class Condition(Ready):
    """How the service does, for administrators."""

    version: str
    service: str = Field(description="its name among those that share the store; empty: it has it alone")
    since: datetime = Field(description="when it was started")
    problem: str = Field(default="", description="what the store said")
    seconds: float = Field(description="how long the store took to answer")
    providers: list[ProviderCondition]
    tunnels: dict[str, int] = Field(description="connections to instances by whether they are up")


class Row(BaseModel):
    """One session."""

    id: str
    owner: str
    name: str = ""
    profile: str = ""
    state: str
    reason: str = ""
    detail: str = ""
    error: str = ""
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    instance: str
    keeper: str = ""
    here: bool = Field(default=True, description="whether this service looks after it")
    provider: str = ""
    shape: str = ""
    machine: str = Field(default="", description="state of its instance")
    cost: str = ""


class Overview(BaseModel):
    """A page of sessions, newest first."""

    rows: list[Row]
    page: int
    pages: int
    found: int = Field(description="sessions that were looked for")
    states: dict[str, int] = Field(description="of all sessions, how many are in each state")
    providers: list[str]
    services: list[str] = Field(description="those that share the store and look after any session")
    instances: int = Field(description="live instances, those of no session included")
