"""Read definitions and locks from a folder of images, and say what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gridcloud.errors import InvalidSettings, NotFound
from gridcloud.images.model import NAME, Definition, Lock, Role, digest_of

__all__ = ["MACHINE", "Image", "Stack", "images_folder", "lock_path", "read_stack", "write_lock"]

Model = TypeVar("Model", bound=BaseModel)

MACHINE = "machine"
"""The definition that makes a machine of any other image."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a stack."""

    name: str
    folder: Path
    definition: Definition

    def lock(self, architecture: str) -> Lock:
        """Return what is locked for an architecture. Raises NotFound, InvalidSettings."""
        path = lock_path(self.folder, architecture)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            raise NotFound(
                f"The image {self.name!r} has no lock for {architecture}.",
                remedy=f"Write it on such a computer: gridcloud image lock {self.name}",
            ) from None
        return _validated(Lock, path, text)


class Stack(Mapping[str, Image]):
    """The images of a folder by name, each after its parent."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = dict(images)

    def __getitem__(self, name: str) -> Image:
        try:
            return self._images[name]
        except KeyError:
            known = ", ".join(self._images)
            raise NotFound(f"There is no image {name!r}; there are: {known}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, name: object) -> bool:
        return name in self._images

    def sessions(self) -> list[str]:
        """Return the names of the images that sessions run in."""
        return [name for name, image in self._images.items() if image.definition.role is Role.SESSION]

    def chain(self, name: str) -> list[Image]:
        """Return the image after all that are below it. Raises NotFound."""
        found = [self[name]]
        while parent := found[0].definition.parent:
            found.insert(0, self[parent])
        return found

    def root(self, name: str) -> Definition:
        """Return the definition at the bottom, which says release and Python."""
        return self.chain(name)[0].definition

    def packages_digest(self, name: str) -> str:
        """Return the digest of the packages that the image and those below it ask for: what a lock is of."""
        texts = []
        for image in self.chain(name):
            definition = image.definition
            texts += [definition.release, definition.python_version, *definition.debian, *definition.python]
        return digest_of(*texts)


def images_folder() -> Path:
    """Return the folder of our own images: in the installed package, or beside it in a checkout. Raises NotFound."""
    package = Path(__file__).parents[1]
    for folder in (package / "images" / "stack", package.parents[1] / "images"):
        if (folder / "base" / "image.yaml").is_file():
            return folder
    raise NotFound(
        "The definitions of gridcloud's images are not installed.", remedy="Name a folder: --images."
    )


def lock_path(folder: Path, architecture: str) -> Path:
    """Return where the lock of an image lies."""
    return folder / f"lock.{architecture}.yaml"


def read_stack(folder: Path) -> Stack:
    """Return the images of a folder. Raises InvalidSettings that names the file and what is wrong in it."""
    found: dict[str, Image] = {}
    for path in sorted(folder.glob("*/image.yaml")):
        name = path.parent.name
        if not re.fullmatch(NAME, name):
            raise InvalidSettings(f"{path.parent}: {name!r} is no name of an image.")
        definition = _validated(Definition, path, path.read_text(encoding="utf-8"))
        found[name] = Image(name, path.parent, definition)
    if not found:
        raise InvalidSettings(f"{folder}: there is no image: no folder in it holds an image.yaml.")
    return Stack({name: found[name] for name in _in_order(found)})


def write_lock(image: Image, lock: Lock) -> Path:
    """Write a lock beside its definition; return its path."""
    path = lock_path(image.folder, lock.architecture)
    head = (
        "# Written by `gridcloud image lock`: every package with its version and the SHA-256 of its file.\n"
    )
    text = yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=False, width=110)
    path.with_suffix(".new").write_text(head + text, encoding="utf-8")
    path.with_suffix(".new").replace(path)
    return path


def _in_order(found: Mapping[str, Image]) -> list[str]:
    order: list[str] = []
    waiting = dict(found)
    while waiting:
        ready = [name for name, image in waiting.items() if image.definition.parent in ("", *order)]
        if not ready:
            name, image = next(iter(waiting.items()))
            raise InvalidSettings(
                f"{image.folder / 'image.yaml'}: the parent {image.definition.parent!r} of {name!r} is no image, "
                "or is made from it."
            )
        order += ready
        for name in ready:
            del waiting[name]
    return order


def _validated(kind: type[Model], path: Path, text: str) -> Model:
    try:
        return kind.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidSettings(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".lstrip(": ")
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidSettings(f"{path}: {'; '.join(told)}.") from None
