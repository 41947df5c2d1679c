"""The API's own description is valid, and no request made up from it breaks the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import Service, open_service

PATHS = {
    "/v1/version",
    "/v1/health/live",
    "/v1/health/ready",
    "/v1/condition",
    "/v1/metrics",
    "/v1/overview",
    "/v1/courses/{name}",
    "/v1/sessions/{session_id}/extend",
    "/v1/offers",
    "/v1/instances",
    "/v1/instances/{instance_id}",
    "/v1/instances/{instance_id}/stop",
    "/v1/instances/{instance_id}/extend",
    "/v1/instances/{instance_id}/files",
    "/v1/instances/{instance_id}/events",
    "/v1/sessions",
    "/v1/sessions/{session_id}",
    "/v1/sessions/{session_id}/wait",
    "/v1/sessions/{session_id}/stop",
    "/v1/sessions/{session_id}/events",
    "/v1/jobs",
    "/v1/jobs/{job_id}",
    "/v1/jobs/{job_id}/cancel",
    "/v1/jobs/{job_id}/clean",
    "/v1/jobs/{job_id}/events",
    "/v1/jobs/{job_id}/log",
    "/v1/jobs/{job_id}/outputs",
    "/v1/jobs/{job_id}/results",
    "/v1/jobs/{job_id}/retry",
    "/v1/job-files/{digest}",
    "/v1/schedulers",
    "/v1/schedulers/{name}/check",
    "/v1/budgets",
    "/v1/budgets/{name}",
    "/v1/ledger",
    "/v1/cluster-providers",
    "/v1/cluster-providers/{name}/check",
    "/v1/cluster-providers/{name}/forget",
    "/v1/clusters",
    "/v1/clusters/{cluster_id}",
    "/v1/clusters/{cluster_id}/access",
    "/v1/clusters/{cluster_id}/events",
    "/v1/clusters/{cluster_id}/scale",
    "/v1/clusters/{cluster_id}/stop",
    "/v1/shares",
    "/v1/shares/{share_id}",
    "/v1/shares/{share_id}/log",
    "/v1/shares/{share_id}/revoke",
    "/v1/shares/{share_id}/sign",
    "/v1/stacks",
    "/v1/stacks/{stack_id}",
    "/v1/stacks/{stack_id}/deploy",
    "/v1/stacks/{stack_id}/destroy",
    "/v1/stacks/{stack_id}/events",
    "/v1/providers",
    "/v1/providers/{name}",
    "/v1/providers/{name}/check",
    "/v1/providers/{name}/discovery",
    "/v1/providers/{name}/forget",
    "/v1/authority",
    "/v1/authority/forget",
    "/v1/authority/prepare",
    "/v1/authority/rotate",
    "/v1/configuration",
    "/v1/configuration/check",
    "/v1/configuration/courses/{name}/members",
    "/v1/configuration/edits",
    "/v1/configuration/history",
    "/v1/configuration/history/{number}",
    "/v1/configuration/rollback",
    "/v1/tokens",
    "/v1/tokens/{token_id}",
    "/v1/agents",
    "/v1/agents/authority",
    "/v1/agents/invitations",
    "/v1/agents/join",
    "/v1/agents/{name}",
    "/v1/agents/{name}/drain",
    "/v1/agents/{name}/labels",
    "/v1/grid",
    "/v1/grid/communities",
    "/v1/grid/communities/{name}",
    "/v1/grid/communities/{name}/adopt",
    "/v1/grid/communities/{name}/branch",
    "/v1/grid/communities/{name}/changes",
    "/v1/grid/communities/{name}/forget",
    "/v1/grid/communities/{name}/invitations",
    "/v1/grid/communities/{name}/leave",
    "/v1/grid/communities/{name}/revocations",
    "/v1/grid/communities/{name}/sign",
    "/v1/grid/init",
    "/v1/grid/invitations/{invitation}",
    "/v1/grid/join",
    "/v1/grid/keys/revoke",
    "/v1/grid/keys/root",
    "/v1/grid/keys/rotate",
    "/v1/grid/drain",
    "/v1/grid/leases",
    "/v1/grid/leases/{institution}/{lease}/reclaim",
    "/v1/grid/ledger",
    "/v1/grid/resume",
    "/v1/grid/report",
    "/v1/doctor",
    "/v1/doctor/mend",
    "/v1/events",
}

FUZZER = Path(sys.executable).with_name("schemathesis")


async def test_the_description_is_whole(service: Service) -> None:
    async with service.browser() as browser, browser.get("/v1/openapi.json") as answer:
        document = await answer.json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == PATHS
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            assert operation["summary"], (verb, path)
            assert operation["description"], (verb, path)


@pytest.mark.lab
@pytest.mark.timeout(600)
@pytest.mark.skipif(not FUZZER.exists(), reason="schemathesis is not installed (pip install gridcloud[dev])")
async def test_made_up_requests_break_nothing(tmp_path: Path) -> None:
    """Schemathesis asks, as an administrator, what the description allows and what it does not."""
    import asyncio

    async with open_service(tmp_path) as service:
        token = await service.token("root", admin=True)
        fuzzer = await asyncio.create_subprocess_exec(
            str(FUZZER),
            "run",
            f"{service.url}/v1/openapi.json",
            f"--tls-verify={service.certificate}",
            f"--header=Authorization: Bearer {token}",
            "--checks=not_a_server_error",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=25",
            "--exclude-path-regex=/(events|mend)$",
            "--request-timeout=20",
            "--seed=1",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1"},
        )
        said, _ = await fuzzer.communicate()
        async with service.admin() as client:
            assert (await client.version()).admin
        assert fuzzer.returncode == 0, said.decode()[-6000:]
