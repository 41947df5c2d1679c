"""gridcloud killed at random points of starting, using and stopping pods: nothing of ours is left in the cluster."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from tests.bad_days.killing import conclude, suffer_all
from tests.bad_days.test_killed import STEPS, VICTIM
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(3000)]


async def test_killed_over_pods(
    tmp_path: Path, kubernetes_cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces = {
        number: await asyncio.to_thread(
            kubernetes_cluster.make_namespace, f"kill-{number}-{secrets.token_hex(3)}"
        )
        for number in range(12)
    }
    pod = {"metadata": {"name": "stranger"}, "spec": {"containers": [{"name": "c", "image": SESSION_IMAGE}]}}
    pod["spec"]["containers"][0] |= {"imagePullPolicy": "Never", "command": ["sleep", "3600"]}  # type: ignore[index]
    kubernetes_cluster.ask("POST", f"/api/v1/namespaces/{spaces[0]}/pods", pod)

    def provider(point: int) -> dict[str, object]:
        return {
            "driver": "kubernetes", "kubeconfig": str(kubernetes_cluster.kubeconfig), "image": SESSION_IMAGE,
            "namespace": spaces[point % len(spaces)], "pull": "Never",
        }  # fmt: skip

    async def left() -> list[str]:
        items = kubernetes_cluster.ask("GET", "/api/v1/pods")["items"]
        names = [one["metadata"]["name"] for one in items if one["metadata"]["namespace"] in spaces.values()]
        assert "stranger" in names, "what is not ours was touched"
        return [name for name in names if name != "stranger"]

    conclude(await suffer_all("kubernetes", tmp_path, provider, left, VICTIM, STEPS), capsys)
