"""What is done before a session starts: the configuration's hooks, and what they give to it."""

from __future__ import annotations

from typing import Any

from gridcloud.hooks.model import Context
from gridcloud.hooks.running import Prepared, prepare
from gridcloud.spawner.options import person_of

__all__ = ["run_hooks"]


async def run_hooks(spawner: Any, profile: str) -> Prepared:
    """Run the hooks of the hub, then those of the profile, for what this spawner is about to start.

    Raises GridcloudError that names the hook and says why; then those that had run are undone.
    """
    settings = spawner.desk.settings()
    entries = [*settings.hub.before_start]
    if profile in settings.profiles:
        entries += settings.profiles[profile].before_start
    person = person_of(spawner.user)
    known = spawner.known()
    state = await spawner.user.get_auth_state() if entries else None
    context = Context(person.name, spawner.name, person.groups, profile, known, state or {})
    return await prepare(entries, spawner.desk.folder, context)
