"""``gridcloud image …``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain, print_table
from gridcloud.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gridcloud.images import Builder, Stack

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Images for sessions: what is in them, and building them.",
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Images; all when not given.")]
Folder = Annotated[
    Path | None,
    typer.Option("--images", metavar="FOLDER", help="Definitions, NAME/image.yaml each; gridcloud's own."),
]
Base = Annotated[
    str,
    typer.Option(
        "--base", metavar="IMAGE", help="What is below all: NAME@sha256:… or an ID. A Debian made here."
    ),
]
Mirror = Annotated[
    str, typer.Option("--mirror", metavar="URL", help="Mirror of Debian's archive. That of this computer.")
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Keep images in a folder, not in this account's store."),
]
Architecture = Annotated[
    str, typer.Option("--architecture", metavar="NAME", help="amd64 or arm64; that of this computer.")
]


@app.command("list")
@framed
async def list_(frame: Frame, images: Folder = None) -> None:
    """List the images that can be built: what each is made from, and whether it is locked."""
    stack, architecture = _stack(images), _architecture("")
    rows = []
    for name in stack:
        one = stack[name]
        try:
            lock = one.lock(architecture)
            packages = f"{len(lock.debian)} + {len(lock.python)}"
            state = packages if lock.of == stack.packages_digest(name) else "of other packages: lock it anew"
        except NotFound:
            state = "not locked"
        rows.append(
            (name, one.definition.parent or f"Debian {one.definition.release}", state, one.definition.title)
        )
    if frame.json:
        keys = ("name", "parent", "locked", "title")
        frame.show({"images": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    print_table(["NAME", "FROM", "DEBIAN + PYTHON PACKAGES", "WHAT"], rows)


@app.command("show")
@framed
async def show(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    images: Folder = None,
    architecture: Architecture = "",
) -> None:
    """Show an image's definition, and every package that it adds to those below it."""
    stack = _stack(images)
    one, lock = stack[name], stack[name].lock(_architecture(architecture))
    if frame.json:
        frame.show(
            {"definition": one.definition.model_dump(mode="json"), "lock": lock.model_dump(mode="json")}
        )
        return
    print(plain((one.folder / "image.yaml").read_text(encoding="utf-8")))
    print("\n".join([*lock.debian, *lock.python]))


@app.command("render")
@framed
async def render(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A new folder; with --cloud-init a file, - for output.")
    ],
    cloud_init: Annotated[
        bool, typer.Option("--cloud-init", help="What makes a plain Debian machine like the image.")
    ] = False,
    images: Folder = None,
    architecture: Architecture = "",
) -> None:
    """Write what an image is built from: a Containerfile with its files, or user data for a cloud's machine."""
    from gridcloud.images.rendering import build_files, cloud_config, containerfile

    stack, built_for = _stack(images), _architecture(architecture)
    if cloud_init:
        text = cloud_config(stack, name, built_for)
        if str(target) == "-":
            print(text, end="")
        else:
            target.write_text(text, encoding="utf-8")
        return
    one, lock = stack[name], stack[name].lock(built_for)
    target.mkdir(parents=True)
    for file, text in {"Containerfile": containerfile(stack, one, lock), **build_files(one, lock)}.items():
        (target / file).write_text(text, encoding="utf-8")
    print(f"Build it with: podman build --build-arg BASE=IMAGE@sha256:… {plain(str(target))}")


@app.command("lock")
@framed
async def lock(
    frame: Frame,
    names: Names = None,
    images: Folder = None,
    base: Base = "",
    mirror: Mirror = "",
    store: Store = None,
    architecture: Architecture = "",
) -> None:
    """Find out today's versions of an image's packages, and write them with their checksums beside its definition."""
    builder = _builder(frame, images, base, mirror, store, architecture)
    for name in names or builder.stack:
        path = await builder.lock(name)
        print(plain(str(path)))


@app.command("build")
@framed
async def build(
    frame: Frame,
    names: Names = None,
    images: Folder = None,
    base: Base = "",
    mirror: Mirror = "",
    store: Store = None,
    architecture: Architecture = "",
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="FILE", help="Also write it for 'docker load'.")
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option("--machine", metavar="FOLDER", help="Also write a disk with its kernel; needs root."),
    ] = None,
) -> None:
    """Build images from their locks, those below them first. What is there already is left as it is."""
    builder = _builder(frame, images, base, mirror, store, architecture)
    wanted = names or builder.stack.sessions()
    if len(wanted) != 1 and (archive or machine):
        raise InvalidRequest("--archive and --machine are for one image: name it.")
    done = [await builder.build(name) for name in wanted]
    if archive:
        await builder.save(done[0], archive)
    if machine:
        await builder.build_machine(wanted[0], machine)
    if frame.json:
        frame.show({"images": [{"name": one.name, "image": one.reference, "id": one.id} for one in done]})
        return
    print_table(["NAME", "IMAGE"], [(one.name, one.reference) for one in done])


def _stack(folder: Path | None) -> Stack:
    from gridcloud.images import images_folder, read_stack

    return read_stack(folder.absolute() if folder else images_folder())


def _builder(
    frame: Frame, images: Path | None, base: str, mirror: str, store: Path | None, architecture: str
) -> Builder:
    from platformdirs import user_cache_path

    from gridcloud.images import Builder, Podman

    return Builder(
        _stack(images),
        Podman(store=store.absolute() if store else None),
        _architecture(architecture),
        user_cache_path("gridcloud") / "images",
        lambda line: print(plain(line), file=sys.stderr),
        base=base,
        mirror=mirror,
    )


def _architecture(given: str) -> str:
    """Return a computer's architecture by Debian's name."""
    import platform

    if given:
        return given
    if program := shutil.which("dpkg"):
        words = [program, "--print-architecture"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
