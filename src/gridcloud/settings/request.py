"""What is asked for: of an instance, and of the machines of a profile. Sizes in bytes, times in seconds."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gridcloud.settings.values import Duration, Size

__all__ = ["Kind", "Record", "Request", "Text"]


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain(value: str) -> str:
    # Halves of a pair of UTF-16 are in no text that can be written: JSON lets them through.
    if len(value) > 300 or any(
        ord(one) < 32 or ord(one) == 127 or 0xD800 <= ord(one) < 0xE000 for one in value
    ):
        raise ValueError("must be at most 300 printable characters")
    return value


Text = Annotated[str, AfterValidator(_plain)]


def _with_unit(value: Any) -> Any:
    """Refuse ``4`` for 4 GiB where a person writes it; numbers of programs, and those in records, are bytes."""
    if isinstance(value, str) and value.strip().isdecimal() and int(value) < 1024**2:
        raise ValueError(f"{value} means bytes; write the unit, for example {int(value) or 4}GiB")
    return value


def _with_unit_or_zero(value: Any) -> Any:
    return value if str(value).strip() == "0" else _with_unit(value)


class Kind(StrEnum):
    """What an instance is."""

    BARE_METAL = "bare_metal"
    """A share of a machine: processes on this computer or an SSH host."""
    CONTAINER = "container"
    """A container."""
    VIRTUAL_MACHINE = "virtual_machine"
    """A machine of its own kernel."""


class Request(Record):
    """What is asked for. Every field is a minimum, save the limits."""

    cpus: float = Field(default=1, gt=0, le=1_000_000, description="CPU cores, at least")
    memory: Annotated[Size, BeforeValidator(_with_unit)] = Field(
        default=1024**3, description="memory, at least, e.g. 4GiB"
    )
    disk: Annotated[Size, BeforeValidator(_with_unit_or_zero)] = Field(
        default=0, description="disk, at least, e.g. 20GiB; 0: whatever there is"
    )
    gpus: int = Field(default=0, ge=0, le=1_000_000, description="GPUs, at least")
    gpu_model: Text = Field(default="", description="GPU model, any part of its name, e.g. H100")
    gpu_memory: Annotated[Size, BeforeValidator(_with_unit_or_zero)] = Field(
        default=0, description="memory per GPU, at least, e.g. 40GiB"
    )
    kind: Kind | None = Field(
        default=None, description="bare_metal, container or virtual_machine; any when not given"
    )
    image: Text = Field(
        default="", description="image, where the kind has images; the provider's own when not given"
    )
    location: Text = Field(default="", description="location, as providers name theirs")
    time: Duration = Field(default=0, description="time limit, e.g. 2h; 0: the provider's own")
    idle: Duration = Field(
        default=0, description="end it after this long without use, e.g. 30m; 0: the configuration's"
    )
    max_price: Decimal | None = Field(default=None, ge=0, description="price per hour, at most")
    spot: bool = Field(
        default=False, description="take cheaper machines, too, that the provider may take back at any time"
    )
    project: Text = Field(default="", description="project whose budget it is charged to")
    on: Text = Field(default="", description="this provider only")
