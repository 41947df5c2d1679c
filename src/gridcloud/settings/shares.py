"""What may be configured of shares: where their doors listen, and where their files lie."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["STORAGE_NAME", "SharesSettings"]

STORAGE_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class SharesSettings(BaseModel):
    """The doors to shared folders, and what keeps these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="",
        description="address that the doors to shares listen on; empty: only `gridcloud share serve` opens them, on "
        "127.0.0.1",
    )
    port: int = Field(default=8445, ge=0, le=65535, description="port of HTTPS and WebDAV; 0: any free one")
    sftp_port: int = Field(default=8022, ge=0, le=65535, description="port of SFTP; 0: any free one")
    certificate: str = Field(
        default="",
        description="file of the certificate and its chain (PEM); empty: plain HTTP, on loopback addresses only",
    )
    key: str = Field(
        default="", description="file of the certificate's private key (PEM), readable by its owner only"
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#/]+)?$",
        description="URL that links begin with, where a name or a server stands before, such as https://data.example.org",
    )
    storages: dict[Annotated[str, Field(pattern=STORAGE_NAME)], dict[str, Any]] = Field(
        default_factory=dict,
        description="folders that users may share parts of, by name: {driver: local, path: /data/{user}}",
    )
