"""Sessions and commands in pods of a real cluster: as a hub and as a person at a terminal use them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.connections.model import Port, Socket
from gridcloud.instances.model import Reason
from tests.cli.conftest import Program
from tests.houses import end, ended, obtain, open_house, story
from tests.labs.kubernetes import SESSION_IMAGE, Cluster
from tests.sessions.test_sessions import live_a_life
from tests.sessions.visit import begin, fetch, home, over

pytestmark = [pytest.mark.lab, pytest.mark.needs_root]


@pytest.fixture
def provider(kubernetes_cluster: Cluster) -> dict[str, Any]:
    """The entry of a provider with a namespace of its own."""
    return {
        "driver": "kubernetes", "kubeconfig": str(kubernetes_cluster.kubeconfig), "image": SESSION_IMAGE,
        "namespace": kubernetes_cluster.make_namespace(f"n{secrets.token_hex(4)}"), "pull": "Never",
    }  # fmt: skip


@pytest.fixture
async def back() -> AsyncIterator[Port]:
    """A server here that a session is to reach."""
    async with home() as port:
        yield port


async def test_a_session_lives_in_a_pod(tmp_path: Path, provider: dict[str, Any], back: Port) -> None:
    session = await live_a_life(tmp_path, provider, back)
    assert isinstance(session.remote, Socket)


async def test_a_session_in_a_pod_outlives_the_service(tmp_path: Path, provider: dict[str, Any]) -> None:
    async with open_house(tmp_path, {"there": provider}) as house:
        session = await begin(house)
        assert await fetch(session) == b"here"
    async with open_house(tmp_path, {"there": provider}) as house:
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await fetch(await house.sessions.wait(session.id)) == b"here"
                    break
                except OSError:
                    await asyncio.sleep(0.2)  # its tunnel is being opened again
        await house.sessions.stop(session.id)
        await over(house, session)
        assert await house.reconciliation.examine() == []


async def test_a_pod_that_is_deleted_is_lost_and_said_so(
    tmp_path: Path, provider: dict[str, Any], kubernetes_cluster: Cluster
) -> None:
    async with open_house(tmp_path, {"there": provider}) as house:
        instance = await obtain(house)
        (holding,) = await house.providers.get("there").holdings()
        namespace, _, name = holding.name.partition("/")
        kubernetes_cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=1")
        last = await ended(house, instance.id, 60)
        assert last.reason is Reason.LOST, await story(house, instance.id)
        assert await house.providers.get("there").holdings() == []


async def test_a_full_namespace_is_passed_over(
    tmp_path: Path, provider: dict[str, Any], kubernetes_cluster: Cluster
) -> None:
    quotas = f"/api/v1/namespaces/{provider['namespace']}/resourcequotas"
    kubernetes_cluster.ask("POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    other = provider | {
        "namespace": kubernetes_cluster.make_namespace(f"n{secrets.token_hex(4)}"),
        "price": 9,
    }
    async with open_house(tmp_path, {"full": provider, "free": other}) as house:
        instance = await obtain(house)
        assert instance.offer is not None
        assert instance.offer.provider == "free"
        await end(house, instance)


def test_a_command_runs_in_a_pod(
    tmp_path: Path, provider: dict[str, Any], kubernetes_cluster: Cluster
) -> None:
    program = Program(tmp_path)
    program.configure({"cluster": provider})
    (tmp_path / "input.txt").write_text("from here\n")
    script = "cat input.txt; id -u; echo result > result.txt; exit 3"
    done = program.run("run", "--put", "input.txt", "--get", "result.txt", "--", "sh", "-c", script, code=3)
    assert done.stdout == b"from here\n1000\n"
    assert (tmp_path / "result.txt").read_text() == "result\n"
    pods = kubernetes_cluster.ask("GET", f"/api/v1/namespaces/{provider['namespace']}/pods")
    assert pods["items"] == []
