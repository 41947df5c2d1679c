"""What every hook does, as a suite to subclass.

class TestMine(HookContract):
    @pytest.fixture
    def works(self, ...):
        return Mine(Mine.Settings(...), folder)      # one that gives something to the users ada and bob

    @pytest.fixture
    def refuses(self, ...):
        return Mine(Mine.Settings(...), folder)      # one that lets nobody in
"""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from gridcloud.errors import GridcloudError
from gridcloud.hooks.driver import Hook, HookSettings
from gridcloud.hooks.model import Context, Outcome

__all__ = ["HookContract", "context_of"]

HOSTILE = (
    "../root",
    "a b",
    "ünï",
    "x" * 70,
    "*)(uid=*",
    "a,dc=org",
    "a=b+c",
    "$(id)",
    "-o x",
    "{auth_state}",
    ".",
)


def context_of(user: str) -> Context:
    """Return the context of a session of somebody without groups, profile or login."""
    return Context(user, known={"JUPYTERHUB_USER": user, "JUPYTERHUB_SERVER_NAME": ""})


class HookContract:
    """A hook gives the same to the same user, refuses in words, and blocks nobody."""

    @pytest.fixture
    def works(self) -> Hook:
        raise NotImplementedError

    @pytest.fixture
    def refuses(self) -> Hook:
        raise NotImplementedError

    async def test_gives_the_same_again(self, works: Hook) -> None:
        first, second = [await works.run(context_of("ada")) for _ in range(2)]
        assert isinstance(first, Outcome)
        assert first == second

    async def test_serves_several_at_once(self, works: Hook) -> None:
        given = await asyncio.gather(*(works.run(context_of(user)) for user in ("ada", "bob", "ada")))
        assert given[0] == given[2]

    async def test_refuses_in_words(self, refuses: Hook) -> None:
        with pytest.raises(GridcloudError) as caught:
            await refuses.run(context_of("ada"))
        assert len(str(caught.value)) > 20

    @pytest.mark.parametrize("name", HOSTILE)
    async def test_takes_or_refuses_any_name(self, works: Hook, name: str) -> None:
        try:
            assert isinstance(await works.run(context_of(name)), Outcome)
        except GridcloudError as error:
            said = str(error)
        else:
            said = ""
        assert not re.search("Traceback|object at 0x", said)

    async def test_lets_others_run_meanwhile(self, works: Hook) -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        task = asyncio.ensure_future(beat())
        began = time.monotonic()
        await works.run(context_of("ada"))
        took = time.monotonic() - began
        task.cancel()
        assert beats > 1 or took < 0.05

    def test_settings_have_their_help(self, works: Hook) -> None:
        kind = type(works).Settings
        assert issubclass(kind, HookSettings)
        assert all(field.description for field in kind.model_fields.values())
