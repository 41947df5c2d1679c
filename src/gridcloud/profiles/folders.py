"""The folders of courses: where they lie, checked against the base that the administrator set."""

from __future__ import annotations

import os
from pathlib import Path

from gridcloud.errors import InvalidSettings
from gridcloud.instances.model import Folder
from gridcloud.settings import Settings

__all__ = ["HANDOUT", "SHARED_FOLDER", "folder_problems", "folders_of"]

HANDOUT, SHARED_FOLDER = "handout", "shared"
"""What they are called in a session, below ``courses/NAME`` in its home."""


def folders_of(settings: Settings, course: str) -> tuple[Folder, ...]:
    """Return a course's folders; none for a course that there is not. Touches the disk.

    One that is no folder below ``hub.course_folders`` has a problem, and no source: a link on the way to it is no way,
    for whoever may write there could lead it anywhere.
    """
    found = settings.courses.get(course)
    if found is None:
        return ()
    names = ((HANDOUT, found.handout), (SHARED_FOLDER, found.shared))
    return tuple(_folder(settings.hub.course_folders, course, kind, name) for kind, name in names if name)


def folder_problems(settings: Settings) -> list[str]:
    """Return what is wrong with the folders of all courses, a sentence for each; none where all is well. Touches the
    disk."""
    folders = (folder for course in settings.courses for folder in folders_of(settings, course))
    return [folder.problem for folder in folders if folder.problem]


def _folder(base: str, course: str, kind: str, name: str) -> Folder:
    folder = Folder(source="", below=name, at=f"{course}/{kind}", read_only=kind == HANDOUT)
    try:
        return folder.model_copy(update={"source": str(_checked(base, name, course))})
    except (InvalidSettings, OSError) as error:
        return folder.model_copy(update={"problem": str(error)})


def _checked(base: str, name: str, course: str) -> Path:
    if not base:
        raise InvalidSettings(
            f"The course {course} has a folder {name!r}, and it is not said where folders of courses lie.",
            remedy="Set hub.course_folders.",
        )
    top = Path(os.path.realpath(base))
    path = top / name
    if os.path.realpath(path) != str(path):
        raise InvalidSettings(
            f"The folder {name!r} of the course {course} leads elsewhere: a part of it is a symbolic link.",
            remedy=f"Make it a folder of its own below {base}.",
        )
    if not path.is_dir():
        raise InvalidSettings(
            f"The course {course} has no folder {path}.", remedy="Make it, with the rights of who fills it."
        )
    return path
