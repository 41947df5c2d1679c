"""Playbooks and scripts in a container: nothing of SSH lies between."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from gridcloud import connections
from gridcloud.configurers.running import run_all
from gridcloud.connections.model import ContainerAddress
from gridcloud.testing.configurers import facts
from gridcloud.testing.connections import FileCredentials
from tests.labs.containers import SESSION_IMAGE, Engine

PLAYBOOK = """
- hosts: all
  tasks:
    - {name: copy, ansible.builtin.copy: {content: "{{ gridcloud_owner }}", dest: /tmp/made}}
    - {name: read, ansible.builtin.command: cat /tmp/made, register: made}
    - {name: tell, ansible.builtin.debug: {msg: "{{ made.stdout }}"}}
"""


@pytest.mark.needs_root
async def test_container_is_configured(podman_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    entries: list[dict[str, object]] = [
        {"use": "script", "text": "id -u"},
        {"use": "ansible", "playbooks": ["site.yml"]},
    ]
    client = docker.APIClient(base_url=podman_engine.url)
    host = client.create_host_config(network_mode="none", init=True, tmpfs={"/tmp": "mode=1777"})
    made = client.create_container(SESSION_IMAGE, ["sleep", "600"], user="1000:1000", host_config=host)["Id"]
    told: list[str] = []
    try:
        client.start(made)
        address = ContainerAddress(engine=podman_engine.url, container=made, directory="/tmp")
        connection = await connections.open(address, FileCredentials(tmp_path))
        try:
            await run_all(entries, tmp_path, connection, facts("a b; $(x)"), told.append)
        finally:
            await connection.close()
    finally:
        client.remove_container(made, force=True)
        client.close()
    assert told[1] == "1000"
    assert "TASK [tell] ok: a b; $(x)" in told
