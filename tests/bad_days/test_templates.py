"""A file of templates that somebody is in the middle of writing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.houses import here
from tests.services import open_service

TEMPLATE = {
    "name": "T",
    "resource_type": "bare_metal",
    "providers": ["local"],
    "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
}


async def test_half_of_it_changes_nothing_and_is_told_to_administrators(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([TEMPLATE]))
    (tmp_path / "d.json").write_text('{"bare_metal": [{"name": "one"}]}')
    hub = {"templates": "t.json", "deployments": "d.json"}
    async with open_service(tmp_path, {"local": here()}, hub=hub) as service, service.admin() as admin:
        state = await admin.configuration.get()
        assert ([one.name for one in state.profiles], state.warnings) == (["t-local-one"], [])
        (tmp_path / "t.json").write_text(json.dumps([TEMPLATE])[:40])
        state = await admin.configuration.get()
        assert state.faults == [], "the configuration itself is well"
        assert any("t.json" in one for one in state.warnings), state
        (tmp_path / "t.json").write_text(json.dumps([TEMPLATE | {"name": "New"}]))
        state = await admin.configuration.get()
        assert ([one.name for one in state.profiles], state.warnings) == (["new-local-one"], [])
