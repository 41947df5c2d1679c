"""The contract suite of what makes clusters: subclass it, give it a driver, and it says what the driver does not keep.

::

    class TestMine(ClusterDriverContract):
        @pytest.fixture
        async def driver(self, tmp_path):
            driver = MyDriver(MySettings(driver="mine", …), cluster_context(tmp_path))
            yield driver
            await driver.close()

A deviation that is known is stated by overriding the test with a strict ``xfail`` and its reason. The suite needs
pytest-asyncio in its automatic mode.
"""

from __future__ import annotations

import asyncio
import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from gridcloud.clusters.driver import ClusterContext, ClusterDriver
from gridcloud.clusters.model import (
    ClusterHandle,
    ClusterObservation,
    ClusterPhase,
    ClusterRequest,
    ClusterSpec,
)
from gridcloud.errors import InvalidRequest, NotFound, Rejected, Transient
from gridcloud.identity import Secret, resolve
from gridcloud.testing.instances import HOSTILE_TEXTS, check_findings

__all__ = ["ClusterDriverContract", "cluster_context"]


def cluster_context(
    folder: Path, provider: str = "under-test", installation: str = "gridcloud-test"
) -> ClusterContext:
    """Return what the house gives a driver, with ``folder`` as its private folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)

    async def secret(reference: str) -> Secret:
        return await asyncio.to_thread(resolve, reference)

    return ClusterContext(provider=provider, installation=installation, folder=folder, secret=secret)


class ClusterDriverContract:
    """What every driver of clusters keeps. ``request_`` may be narrowed, the numbers adapted."""

    request_: ClassVar[ClusterRequest] = ClusterRequest(nodes=2)
    impossible: ClassVar[ClusterRequest] = ClusterRequest(shape="no-such-shape")
    """What is never possible here."""
    ready_seconds: ClassVar[float] = 60
    """How long a cluster may take to become ready, to change, and to go."""
    poll_seconds: ClassVar[float] = 0.05

    @pytest.fixture
    def driver(self) -> Any:
        """A fresh driver of a provider that holds nothing of ours; closed afterwards. The subclass gives it."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'driver'")

    @pytest.fixture
    async def second_driver(self, driver: ClusterDriver) -> AsyncIterator[ClusterDriver]:
        """Another object for the same provider, as after a restart."""
        second = type(driver)(driver.settings, driver.context)
        yield second
        await second.close()

    @pytest.fixture(autouse=True)
    async def _leave_nothing(self, driver: ClusterDriver) -> AsyncIterator[None]:
        yield
        for held in await driver.holdings():
            await self.gone(driver, held.cluster_id, held.handle)
        assert await driver.holdings() == []
        kept = [path for path in driver.context.folder.iterdir() if "kubeconfig" in path.name]
        assert kept == [], "access to what is gone is kept"

    def spec(self, owner: str = "ada", name: str = "", **asked: object) -> ClusterSpec:
        """Return a specification with a new id."""
        request = self.request_.model_copy(update=asked)
        return ClusterSpec(id=f"k-{secrets.token_hex(5)}", owner=owner, name=name, request=request)

    async def ready(
        self, driver: ClusterDriver, spec: ClusterSpec, handle: ClusterHandle
    ) -> ClusterObservation:
        """Return the observation of the cluster once it is ready; fail the test when it does not come to that."""
        async with asyncio.timeout(self.ready_seconds):
            while True:
                seen = (await driver.observe({spec.id: handle}))[spec.id]
                if seen.phase is ClusterPhase.READY:
                    return seen
                assert seen.phase is ClusterPhase.PENDING, f"it became {seen.phase}: {seen.detail}"
                await asyncio.sleep(self.poll_seconds)

    async def gone(self, driver: ClusterDriver, cluster_id: str, handle: ClusterHandle | None) -> None:
        """Remove a cluster as the runner does: until nothing is left."""
        async with asyncio.timeout(self.ready_seconds):
            while True:
                if await driver.destroy(cluster_id, handle):
                    return
                await asyncio.sleep(self.poll_seconds)

    async def held(self, driver: ClusterDriver) -> list[str]:
        """Return the ids of the clusters that the provider holds anything of, each once."""
        return sorted({held.cluster_id for held in await driver.holdings()})

    async def test_lives_and_goes(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        async with asyncio.timeout(60):
            handle = await driver.create(spec)
        assert len(handle.model_dump_json()) <= 8192
        seen = await self.ready(driver, spec, handle)
        assert seen.nodes == self.request_.nodes
        assert not seen.problem
        await self.gone(driver, spec.id, handle)
        assert (await driver.observe({spec.id: handle}))[spec.id].phase is ClusterPhase.GONE
        assert await self.held(driver) == []

    async def test_survives_a_restart(self, driver: ClusterDriver, second_driver: ClusterDriver) -> None:
        spec = self.spec()
        handle = ClusterHandle.model_validate_json((await driver.create(spec)).model_dump_json())
        await self.ready(second_driver, spec, handle)
        assert await self.held(second_driver) == [spec.id]
        await self.gone(second_driver, spec.id, handle)

    async def test_create_twice_makes_one(self, driver: ClusterDriver, second_driver: ClusterDriver) -> None:
        spec = self.spec()
        first = await driver.create(spec)
        second = await second_driver.create(spec)
        await self.ready(driver, spec, first)
        await self.ready(driver, spec, second)
        assert [held.cluster_id for held in await driver.holdings() if held.what == "cluster"] == [spec.id]

    async def test_create_twice_at_once_makes_one(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        handles = await asyncio.gather(driver.create(spec), driver.create(spec))
        for handle in handles:
            await self.ready(driver, spec, handle)
        assert [held.cluster_id for held in await driver.holdings() if held.what == "cluster"] == [spec.id]

    async def test_what_can_never_be_is_rejected(self, driver: ClusterDriver) -> None:
        spec = self.spec().model_copy(update={"request": self.impossible})
        with pytest.raises(Rejected):
            await driver.create(spec)
        await self.gone(driver, spec.id, None)

    async def test_says_what_nodes_would_be(self, driver: ClusterDriver) -> None:
        node = await driver.node(self.request_)
        assert node.name, "prices go by the names of shapes"
        with pytest.raises(Rejected):
            await driver.node(self.impossible)
        assert await self.held(driver) == []

    async def test_scales_up_and_down(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        for nodes in (self.request_.nodes + 2, self.request_.nodes + 2, 1):
            await self.scaled(driver, spec, handle, nodes)
        assert await self.held(driver) == [spec.id]

    async def scaled(
        self, driver: ClusterDriver, spec: ClusterSpec, handle: ClusterHandle, nodes: int
    ) -> None:
        """Give a cluster so many nodes and wait until it has them."""
        await driver.scale(spec.id, handle, nodes)
        async with asyncio.timeout(self.ready_seconds):
            while True:
                seen = (await driver.observe({spec.id: handle}))[spec.id]
                assert not seen.problem
                if seen.phase is ClusterPhase.READY and seen.nodes == nodes:
                    return
                await asyncio.sleep(self.poll_seconds)

    async def test_scaling_what_is_gone_is_not_found(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        await self.gone(driver, spec.id, handle)
        with pytest.raises(NotFound):
            await driver.scale(spec.id, handle, 3)
        assert await self.held(driver) == []

    async def test_access_is_a_file_for_us_alone(self, driver: ClusterDriver, tmp_path: Path) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.ready(driver, spec, handle)
        path = await driver.kubeconfig(spec.id, handle)
        assert path.is_relative_to(driver.context.folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert yaml.safe_load(path.read_text())["kind"] == "Config"
        assert await driver.kubeconfig(spec.id, handle) == path
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text("theirs")
        path.unlink()
        path.symlink_to(elsewhere)
        assert await driver.kubeconfig(spec.id, handle) == path
        assert not path.is_symlink()
        assert elsewhere.read_text() == "theirs"
        path.with_name(f".{path.name}.0123").write_text("half of it, left by a crash")
        await self.gone(driver, spec.id, handle)
        assert not path.exists()

    async def test_destroy_twice_and_of_nothing_succeeds(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await asyncio.gather(driver.destroy(spec.id, handle), driver.destroy(spec.id, handle))
        await self.gone(driver, spec.id, handle)
        await self.gone(driver, spec.id, handle)
        assert await driver.destroy("k-never-was", None)

    async def test_destroy_without_a_handle(
        self, driver: ClusterDriver, second_driver: ClusterDriver
    ) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.gone(second_driver, spec.id, None)
        assert await self.held(driver) == []
        assert (await driver.observe({spec.id: handle}))[spec.id].phase is ClusterPhase.GONE

    async def test_destroy_of_what_is_still_being_made(self, driver: ClusterDriver) -> None:
        spec = self.spec()
        handle = await driver.create(spec)
        await self.gone(driver, spec.id, handle)
        assert await self.held(driver) == []

    async def test_observes_many_and_none(self, driver: ClusterDriver) -> None:
        spec, other = self.spec(), self.spec(owner="grace")
        first, second = await asyncio.gather(driver.create(spec), driver.create(other))
        await self.ready(driver, spec, first)
        await self.gone(driver, spec.id, first)
        seen = await driver.observe({spec.id: first, other.id: second})
        assert seen[spec.id].phase is ClusterPhase.GONE
        assert seen[other.id].phase in {ClusterPhase.PENDING, ClusterPhase.READY}
        assert not await driver.observe({})

    @pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
    async def test_names_are_never_trusted(self, driver: ClusterDriver, text: str, tmp_path: Path) -> None:
        mark = tmp_path / "touched"
        text = text.replace("/tmp/x", str(mark)) if len(text) < 300 else text
        spec = self.spec(owner=text, name=text)
        handle = await driver.create(spec)
        assert await self.held(driver) == [spec.id]
        await self.gone(driver, spec.id, handle)
        assert not mark.exists()

    @pytest.mark.parametrize("id", ["../x", "/etc/x", "..", "K-1", "k-1\n", "", "x" * 50])
    async def test_ids_are_never_paths(self, driver: ClusterDriver, id: str) -> None:
        for call in (driver.context.kubeconfig, driver.context.forget_kubeconfig):
            with pytest.raises(InvalidRequest):
                call(id)

    async def test_check_tells_findings(self, driver: ClusterDriver) -> None:
        async with asyncio.timeout(30):
            findings = await driver.check()
        check_findings(findings)

    async def test_a_busy_cluster_says_so(self, driver: ClusterDriver) -> None:
        """Scaling one that is still being made is done, or Transient: it may be asked again."""
        spec = self.spec()
        handle = await driver.create(spec)
        try:
            await driver.scale(spec.id, handle, self.request_.nodes + 1)
        except Transient:
            await self.ready(driver, spec, handle)
            await self.scaled(driver, spec, handle, self.request_.nodes + 1)
