"""Applications beside JupyterLab in a session: what starts them, and how their cards look."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gridcloud.settings.values import Duration

__all__ = ["APP_NAME", "BUILT_IN", "AppSettings", "check_apps"]

APP_NAME = r"^[a-z][a-z0-9-]{0,23}$"
"""Short: it is part of a socket's path, and of addresses."""

BUILT_IN = ("desktop", "code", "rstudio", "dask")
"""Applications that need no entry; one of the same name changes what it says."""

TAKEN = frozenset(
    [
        "api",
        "consoles",
        "custom",
        "doc",
        "edit",
        "files",
        "hub",
        "kernelspecs",
        "lab",
        "login",
        "logout",
        "lsp",
        "metrics",
        "nbconvert",
        "notebooks",
        "oauth-callback",
        "proxy",
        "server-proxy",
        "services",
        "static",
        "terminals",
        "tree",
        "user",
        "view",
        "voila",
    ]
)
"""First words of addresses that a session's server has already."""

PLACEHOLDERS = ("socket", "stream", "base_url", "python", "files")

ICON_BYTES = 4 << 10

ALL_BYTES = 32 << 10
"""What all entries may come to: they travel with each session."""


class AppSettings(BaseModel):
    """One application: a program that answers HTTP on a Unix socket, started when its card is opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="whether sessions have it")
    title: str = Field(default="", max_length=60, description="what its card says")
    icon: str = Field(default="", description="the picture on its card, as SVG text of at most 4 KiB")
    command: tuple[str, ...] = Field(
        default=(),
        description="the program and its arguments; {socket}: where it is to listen, {base_url}: the path it is "
        "reached at, {stream}: a second socket, whose bytes a page of its has by websocket at ../NAME-stream/, "
        "{python}: the Python of the session's server, {files}: the folder with programs of gridcloud's own",
    )
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")], str] = Field(
        default_factory=dict, description="variables it is given beside those of the session, nothing secret"
    )
    ready: str = Field(
        default="/", pattern=r"^/[!-~]*$", description="path that it answers without an error once it is up"
    )
    start: Duration = Field(default=60, ge=1, description="longest time from its start to its first answer")
    install: str = Field(
        default="",
        max_length=500,
        description="what to install where the program is missing, in words for its user",
    )
    new_tab: bool = Field(
        default=True, description="open it in a tab of the browser, not in one of JupyterLab"
    )
    whole_path: bool = Field(
        default=False, description="ask it by whole paths, with {base_url} before them, as some programs want"
    )
    is_use: bool = Field(
        default=True,
        description="whether what its page asks for is use of the session, which idle ones are not in",
    )

    @field_validator("icon")
    @classmethod
    def _is_svg(cls, icon: str) -> str:
        if icon and (len(icon.encode()) > ICON_BYTES or not re.match(r"\s*<svg[\s>]", icon)):
            raise ValueError(f"no SVG text of at most {ICON_BYTES} bytes")
        return icon

    @field_validator("command")
    @classmethod
    def _has_known_places(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        for word in command:
            for name in re.findall(r"\{(\w+)\}", word):
                if name == "port":
                    raise ValueError("a port is open to everybody on the machine: have it listen on {socket}")
                if name not in PLACEHOLDERS:
                    raise ValueError(
                        f"{{{name}}} is nothing that is filled in: there are {', '.join(PLACEHOLDERS)}"
                    )
        return command

    @model_validator(mode="after")
    def _listens(self) -> Self:
        if self.command and not any(
            "{socket}" in part for part in (*self.command, *self.environment.values())
        ):
            raise ValueError(
                "nothing says where it is to listen: {socket} belongs into its command or environment"
            )
        return self


def check_apps(apps: dict[str, AppSettings]) -> dict[str, AppSettings]:
    """Return the entries as they are. Raises ValueError for one that is not whole or whose address is taken."""
    for name, app in apps.items():
        first = name.removesuffix("-stream")
        if name in TAKEN or (first != name and first in {*apps, *BUILT_IN}):
            raise ValueError(f"{name}: this is an address of something else in a session: take another name")
        if name not in BUILT_IN and not (app.command and app.title):
            raise ValueError(f"{name}: an application of one's own has a title and a command")
    if sum(len(app.model_dump_json().encode()) for app in apps.values()) > ALL_BYTES:
        raise ValueError(f"all of them together, pictures included, come to more than {ALL_BYTES >> 10} KiB")
    return apps
