"""Owners' homes in volumes of the engine: each owner's own, kept when containers go, mounted in all of theirs.

A volume is named after a digest of its owner, so what owners are called never reaches a name; its labels say whose
it is, and are looked at before it is mounted. Containers have no capabilities, so that a home gets its user from
outside, as files do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from gridcloud.drivers.instances.container_engine import ContainerEngine, make_archive
from gridcloud.errors import Rejected, Transient

__all__ = ["HOME", "give_home", "label_text", "make_home", "prove_home", "short_name", "tell_homes"]

HOME = "/gridcloud/home"
"""Where an owner's home is in a container."""

# Ends with 0 when the home is this user's, and else prints the number of the user it belongs to.
PROVE = f'if [ -O {HOME} ]; then exec chmod 700 {HOME}; fi; set -- $(ls -dn {HOME}); echo "$3"; exit 1'


def make_home(engine: ContainerEngine, installation: str, owner: str) -> str:
    """Return the name of the volume that is an owner's home, made when there is none. Raises Rejected when a volume of
    that name is somebody else's."""
    digest = hashlib.sha256(owner.encode()).hexdigest()
    name = f"gridcloud-home-{short_name(installation)}-{digest[:16]}"
    whose = {"gridcloud.installation": installation, "gridcloud.home": digest}
    labels = engine.make_volume(name, whose | {"gridcloud.owner": label_text(owner)})
    if {key: labels.get(key) for key in whose} != whose:
        raise Rejected(
            f"There is a volume {name} on the engine that is not this owner's home.",
            remedy="An administrator compares its labels (`docker volume inspect`), and renames or removes it.",
        )
    return name


def give_home(engine: ContainerEngine, container: str, volume: str, uid: int, gid: int) -> None:
    """Give a new home to the user of a container that is made and not started; leave one that is somebody's.

    Docker makes it root's, and takes its ownership by way of the folder above. Podman gives it to the first container
    that starts with it, and says before that it were its already. Raises Rejected when it belongs to another user.
    """
    owned, mode = engine.ownership(container, HOME)
    if owned == uid:
        return
    if owned != 0 or mode == 0o700:
        raise _closed(str(owned), volume)
    parent, _, name = HOME.rpartition("/")
    engine.write(container, make_archive([name], uid, gid, {}), parent)


def prove_home(engine: ContainerEngine, container: str, volume: str) -> None:
    """See that the home is the running container's user's, and close it to others. Raises Rejected when it is not:
    an image whose user has another number would find it closed."""
    try:
        code, said = engine.execute(container, ["/bin/sh", "-c", PROVE])
    except Transient:
        if engine.inspect(container)["State"].get("Running"):
            raise
        return  # it has ended already; why is told to those who look at it
    if code:
        raise _closed(said.strip(), volume)


def _closed(owned: str, volume: str) -> Rejected:
    number = owned if owned.isdecimal() else "another"
    return Rejected(
        f"The owner's home belongs to user {number}, who is not the user of this image.",
        remedy="Name an image of that user; or an administrator sets the provider's 'user' to it, or gives the files "
        f"of the volume {volume} to the image's user.",
    )


def tell_homes(volumes: Mapping[str, Mapping[str, str]]) -> str:
    """Tell an administrator how many of these volumes (labels by name) are homes, and how one is removed."""
    count = sum("gridcloud.home" in labels for labels in volumes.values())
    many = "1 home is" if count == 1 else f"{count} homes are"
    if not count:
        return "homes are kept in volumes; there is none yet"
    return (
        f"{many} kept in volumes; `docker volume ls --filter label=gridcloud.owner=NAME` finds an owner's, "
        "`docker volume rm VOLUME` removes it with all that is in it (or `podman volume …`)"
    )


def label_text(text: str) -> str:
    """Return what of a text an engine's label takes and a terminal may show."""
    return "".join(character for character in text if character.isprintable())[:300]


def short_name(installation: str) -> str:
    """Return the part of an installation's id that names of containers and volumes carry."""
    return re.sub(r"[^a-z0-9]", "", installation.lower())[:8] or "x"
