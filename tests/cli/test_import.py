"""``gridcloud config import``: what the prototype was told, taken over or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gridcloud.errors import InvalidSettings
from gridcloud.settings.corc import import_corc
from tests.cli.conftest import Caller

CORC: dict[str, Any] = {
    "corc": {
        "configurers": {"ANSIBLE": {}},
        "job": {"capture": True, "meta": {"debug": False, "num_jobs": 1}, "output_path": "/tmp/output"},
        "providers": {
            "ec2": {
                "instance": {
                    "image": "ami-0f18ced0fd6aae5c2",
                    "name": "instance",
                    "size": "t1.micro",
                    "ssh_authorized_key": "",
                },
                "profile": {"config_file": "~/.aws/config", "name": "default"},
            },
            "oci": {
                "cluster": {"name": "cluster", "node": {"node_shape": "VM.Standard2.1", "size": 1}},
                "instance": {
                    "availability_domain": "",
                    "operating_system": "Oracle Linux",
                    "operating_system_version": "7.9",
                    "shape": "VM.Standard2.1",
                    "ssh_authorized_keys": [],
                },
                "profile": {"compartment_id": "ocid1.compartment.oc1..a", "name": "DEFAULT"},
                "vcn": {
                    "cidr_block": "10.0.0/16",
                    "dns label": "vcn",
                    "internetgateway": {"is enabled": True},
                    "routetable": {"routerules": [{"destination": "0.0.0.0/0"}]},
                    "subnet": {"cidr_block": "10.0.1.0/24"},
                },
            },
        },
    },
    "storage": {"enable": False, "s3": {"name": "default"}},
}


def test_every_key_is_told_of(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = eu-north-1\n")
    imported = import_corc(CORC, tmp_path)
    assert imported.providers["ec2"] == {
        "driver": "ec2",
        "image": "ami-0f18ced0fd6aae5c2",
        "shapes": ["t1.micro"],
        "profile": "default",
        "region": "eu-north-1",
    }
    assert imported.providers["oci"] == {
        "driver": "oci",
        "image": "Oracle-Linux-7.9*",
        "shapes": ["VM.Standard2.1"],
        "compartment": "ocid1.compartment.oc1..a",
        "profile": "DEFAULT",
        "address_range": "10.0.0.0/16",
    }
    told = {note.key for note in imported.notes}
    assert {"corc.configurers.ANSIBLE", "corc.job.meta", "corc.storage.s3"} <= told
    assert {"corc.providers.oci.cluster.node.size", "corc.providers.oci.vcn.subnet.cidr_block"} <= told


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"corc": {"provider": {}}}, "corc.provider is no key"),
        ({"corc": {"providers": {"gce": {}}}}, "corc.providers.gce"),
        (
            {"corc": {"providers": {"oci": {"instance": {"shapes": "x"}}}}},
            "nearest is corc.providers.oci.instance.shape",
        ),
        ({"corc": {"providers": {"oci": []}}}, "has to hold keys"),
        ({"corc": {}, "storag": {}}, "corc.storag"),
    ],
)
def test_unknown_keys_are_named(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        import_corc(document)
    assert words in str(caught.value)


def test_providers_are_written_when_nothing_is_missing(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / "corc.yaml"
    path.write_text(yaml.safe_dump({"corc": {"providers": {"oci": CORC["corc"]["providers"]["oci"]}}}))
    call("config", "import", str(path), code=2)
    assert "allow_from" in call.err
    assert "Nothing was written" in call.err
    document = call.json("config", "import", str(path), "--set", "oci.allow_from=192.0.2.0/24", "--dry-run")
    assert document["written"] is False
    assert "oci" not in [one["name"] for one in call.json("provider", "list")["providers"]]
    call("config", "import", str(path), "--set", "oci.allow_from=192.0.2.0/24")
    assert "oci" in [one["name"] for one in call.json("provider", "list")["providers"]]
    call("config", "import", str(path), "--set", "gce.a=1", code=2)
    assert "no such provider" in call.err


def test_stacks_are_imported_and_plans_are_explained(call: Caller, tmp_path: Path) -> None:
    stack = tmp_path / "lab.yml"
    stack.write_text(
        "instances:\n  node[01-02]:\n    provider: {name: cloud}\n    settings: {kwargs: {num_vcpus: 1}}\n"
    )
    assert "of 2 instances" in call("config", "import", str(stack), "--dry-run")
    call("config", "import", str(stack))
    assert list(call.json("stack", "show", "lab")["members"]) == ["node01", "node02"]
    plan = tmp_path / "test_plan.yml"
    plan.write_text("orchestrator: {provider: {name: cloud}}\n")
    call("config", "import", str(plan), code=2)
    advice = f"config import STACK --plan test_plan={plan}"
    assert advice in call.err
    stack.write_text("instances: {node: {plan: test_plan}}\npools: {all: [node]}\n")
    call("config", "import", str(stack), "--dry-run", code=2)
    assert "--plan NAME=FILE" in call.err
    words = advice.replace("STACK", str(stack)).split()
    assert call(*words, "--dry-run") == "A stack lab of 1 instance and 1 pool.\n"
    call(*words, "--name", "planned")
    assert list(call.json("stack", "show", "planned")["members"]) == ["node"]
