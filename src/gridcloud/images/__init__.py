"""Images that sessions run in: definitions, locks, and what containers and machines are built from."""

from __future__ import annotations

from gridcloud.images.building import Builder, Built
from gridcloud.images.engine import Podman
from gridcloud.images.model import Definition, Lock
from gridcloud.images.reading import Image, Stack, images_folder, read_stack
from gridcloud.images.rendering import cloud_config, containerfile

__all__ = [
    "Builder",
    "Built",
    "Definition",
    "Image",
    "Lock",
    "Podman",
    "Stack",
    "cloud_config",
    "containerfile",
    "images_folder",
    "read_stack",
]
