"""The settings of a `libcloud` provider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridcloud.instances.cloud import CloudSettings

__all__ = ["LibcloudSettings", "LibcloudSize", "is_reference"]

SECRET = re.compile(r"secret|passw|token|private|credential", re.IGNORECASE)


def is_reference(value: Any) -> bool:
    """Return whether a value refers to a secret instead of being one."""
    return isinstance(value, str) and bool(re.match(r"(file:[/~]|env:\w|keyring:.+/)", value))


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class LibcloudSize(BaseModel):
    """What a size has, where the provider does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=0, ge=0, description="CPU cores; 0: what the provider says, else 1")
    gpus: int = Field(default=0, ge=0, description="GPUs")
    gpu_model: str = Field(default="", description="model of the GPUs")


class LibcloudSettings(CloudSettings):
    """Settings of a cloud that a driver of Apache libcloud speaks to."""

    place: ClassVar[tuple[str, ...]] = ("compute", "arguments")

    compute: str = Field(
        pattern=r"^([a-z0-9_]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="libcloud's compute driver by its name (digitalocean, gce, ec2, openstack, …), "
        "or one of your own as module:Class",
    )
    arguments: Mapping[str, Any] = Field(
        default_factory=dict,
        description="arguments of that driver's class by name; secrets by reference: file:PATH, env:NAME, "
        "keyring:SERVICE/USER",
    )
    create: Mapping[str, Any] = Field(
        default_factory=dict,
        description="further arguments of its create_node by name, e.g. ex_security_groups; no secrets here",
    )
    list_images: Mapping[str, Any] = Field(
        default_factory=dict, description="arguments of its list_images by name, e.g. ex_owner: self"
    )
    networks: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="names or ids of the networks (subnets, on EC2) that machines are made in"
    )
    locations: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="names of the locations to make machines in, tried in this order; the provider chooses when "
        "not given",
    )
    user_data: str = Field(
        default="",
        pattern=r"^(\w+(\.[\w-]+)?)?$",
        description="argument of create_node that takes cloud-init user data, where it is not found by its usual name; "
        "ARGUMENT.KEY for an entry of a mapping",
    )
    sizes: Mapping[str, LibcloudSize] = Field(
        default_factory=dict, description="what sizes have, by name, where the provider does not say"
    )

    @model_validator(mode="after")
    def _check_secrets(self) -> LibcloudSettings:
        """The entry is stored with what it made: a secret must not stand in it."""
        others = [name for name in self.arguments if SECRET.search(name)]
        for name, value in self.arguments.items():
            alone = name == "key" and not others and self.compute != "dummy"
            if (name in others or alone) and value and not is_reference(value):
                raise ValueError(
                    f"arguments.{name} must refer to a secret: file:PATH, env:NAME or keyring:SERVICE/USER"
                )
        wrong = [name for name in self.create if SECRET.search(name) or name in ("name", "size", "image")]
        if wrong:
            raise ValueError(f"create.{wrong[0]} is not to be set here")
        return self
