"""What a configurer is told of the machine it works on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Facts"]


class Facts(BaseModel):
    """The instance, as far as a configurer may know it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_id: str
    owner: str = Field(description="the owner's name as gridcloud knows it: any text, never to be trusted")
    name: str = ""
    provider: str = ""
    kind: str = ""
    image: str = ""
    cpus: float = 1
    memory: int = 0
    gpus: int = 0
    variables: dict[str, str] = Field(
        default_factory=dict, description="host variables given with the request"
    )
