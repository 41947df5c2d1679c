"""Names and values that want to be something else: as owner, as instance's name, in the environment, of files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gridcloud import connections
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.instances.model import Request
from gridcloud.service.house import House
from tests.houses import end, link, obtain, open_house

pytestmark = pytest.mark.needs_root

TRAP = Path("/tmp/gridcloud-trap")
HOSTILE = [
    f"a b; touch {TRAP}",
    f"$(touch {TRAP})`touch {TRAP}`",
    "../../etc",
    "-rf",
    "Ünï çødé 🦊 ﷽",
    "x" * 300,
    "two\nlines\r\tand \x1b[31mred",
    "' \" \\ | & > < * ? {a} %s",
]


async def use(house: House, text: str, folder: Path) -> None:
    """Live a life in which everything bears this name."""
    instance = await obtain(house, text, name=text)
    there = await link(house, instance)
    said = await connections.run(there, Command(("sh", "-c", 'printf %s "$X"'), {"X": text}))
    assert said.stdout.decode() == text
    said = await connections.run(there, Command(("printf", "%s\\n", text)))
    assert said.stdout.decode() == text + "\n"
    await carry(there, text, folder)
    await end_one(house, instance.id)


async def carry(there: Connection, text: str, folder: Path) -> None:
    """Take a file of this name there and back."""
    (folder / "source").write_bytes(text.encode())
    if len(text) > 255:
        with pytest.raises(GridcloudError):
            await there.put(folder / "source", f"files/{text}")
        return
    name = text.replace("/", "_")
    await there.put(folder / "source", f"files/{name}")
    await there.get("files", folder / "back")
    assert [path.name for path in (folder / "back").iterdir()] == [name]
    assert (folder / "back" / name).read_bytes() == text.encode()


async def end_one(house: House, instance_id: str) -> None:
    await end(house, await house.instances.records.get(instance_id))


async def test_names_and_values_stay_what_they_are(tmp_path: Path, anywhere: dict[str, Any]) -> None:
    TRAP.unlink(missing_ok=True)
    async with open_house(tmp_path, {"there": anywhere}) as house:
        gate = asyncio.Semaphore(2)

        async def one(number: int, text: str) -> None:
            folder = tmp_path / str(number)
            folder.mkdir()
            async with gate:
                await use(house, text, folder)

        async with asyncio.TaskGroup() as group:
            for number, text in enumerate(HOSTILE):
                group.create_task(one(number, text))
        driver = house.providers.get("there")
        assert await driver.holdings() == []
    assert not TRAP.exists()


async def test_files_do_not_leave_their_place(tmp_path: Path, anywhere: dict[str, Any]) -> None:
    async with open_house(tmp_path, {"there": anywhere}) as house:
        instance = await obtain(house)
        there = await link(house, instance)
        script = (
            f"mkdir d && ln -s /etc d/link && ln -s ../../../.. d/up && echo x > d/'a b; touch {TRAP.name}'"
        )
        await connections.run(there, Command(("sh", "-c", script)))
        (tmp_path / "got").mkdir()
        await there.get("d", tmp_path / "got" / "d")
        assert sorted(path.name for path in (tmp_path / "got").iterdir()) == ["d"]
        assert (tmp_path / "got" / "d" / "link").is_symlink()
        await end(house, instance)


async def test_a_value_that_no_process_can_have_is_refused(tmp_path: Path, anywhere: dict[str, Any]) -> None:
    async with open_house(tmp_path, {"there": anywhere}) as house:
        instance = await obtain(house)
        there = await link(house, instance)
        for command in (
            Command(("true",), {"X": "a\0b"}),
            Command(("true",), {"A=B": "x"}),
            Command(("true",), {"A; touch /tmp/x": "x"}),
            Command(("a\0b",)),
        ):
            with pytest.raises(InvalidRequest):
                await there.start(command)
        await end(house, instance)


@pytest.mark.parametrize("field", ["image", "gpu_model", "location", "on"])
@pytest.mark.parametrize("text", ["a\nb", "x" * 301, "\x1b[31m"])
def test_requests_refuse_what_nobody_can_mean(field: str, text: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        Request.model_validate({field: text})
