"""The MultipleSpawner's own files, those printed in its papers, and what is wrong with others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.profiles.placeholders import fill, strange_placeholders
from gridcloud.profiles.prototypes import Prototypes, read_prototypes
from tests.profiles.listings import LISTING_1, LISTING_2, THREE_TYPES

PLAYS = {"class": "corc.configurer.AnsibleConfigurer"}
PROVIDERS = {"here": "local", "pods": "container", "vms": "qemu", "oci": "oci"}


def template(**changes: Any) -> dict[str, Any]:
    return {
        "name": "T",
        "resource_type": "bare_metal",
        "providers": ["local"],
        "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
    } | changes


def read(templates: Any, deployments: str = THREE_TYPES) -> Prototypes:
    text = templates if isinstance(templates, str) else json.dumps(templates)
    return read_prototypes(("t.json", text), ("d.json", deployments), PROVIDERS)


def test_the_listings_of_the_paper_become_a_profile() -> None:
    found = read(LISTING_2, LISTING_1)
    (profile,) = found.profiles.values()
    assert list(found.profiles) == ["virtualmachine-spawner-oci-oracle-linux-7-8"]
    assert profile.spawner is None
    assert profile.request.model_dump(exclude_unset=True) == {
        "kind": "virtual_machine",
        "on": "oci",
        "image": "Oracle Linux 7.8",
    }
    assert set(profile.choose) == {"cpus", "memory", "gpus", "time"}
    assert profile.configure == (
        {
            "use": "ansible",
            "playbooks": ["setup_ssh_spawner.yml"],
            "host_variables": {"new_username": "{JUPYTERHUB_USER}"},
            "become": True,
            "groups": ["compute"],
        },
    )
    told = {note.key.split(".")[-1] for note in found.notes}
    assert told == {
        *("remote_hosts", "remote_port", "ssh_keyfile", "remote_port_command", "port"),
        *("ansible_user", "ansible_become_method", "class", "create_certificate"),
    }
    (place,) = {note.place for note in found.notes if note.key.endswith("remote_port_command")}
    assert place == "t.json:13:9", "found by its key as it is printed, with a space"


def test_three_types_become_three_profiles() -> None:
    images = [{"name": "One", "image": "x/one"}, {"name": "Two", "image": "nielsbohr/python-notebook"}]
    swarm = {"class": "jhub.SwarmSpawner", "kwargs": {"dockerimages": images, "networks": ["n"]}}
    found = read(
        [
            template(resource_type="container", name="C") | swarm,
            template(resource_type="virtual_machine", name="V", providers=["oci"])
            | {"class": "cloudsshspawner.cloudsshspawner.CloudSSHSpawner"},
            template(name="B", configurer={}, authenticator={}),
        ]
    )
    container, machine, metal = found.profiles.values()
    assert (container.request.on, container.choose["image"].values) == (
        "pods",
        ("x/one", "nielsbohr/python-notebook"),
    )
    assert (machine.request.on, machine.spawner) == ("oci", None)
    assert metal.spawner is not None
    assert metal.spawner.class_ == "jupyterhub.spawner.SimpleLocalProcessSpawner"
    assert not metal.request.model_fields_set


def test_another_spawner_gets_the_deployment_with_its_arguments() -> None:
    docker = {"class": "dockerspawner.DockerSpawner", "kwargs": {"name_template": "{prefix}-{username}"}}
    (profile,) = read([template(resource_type="container", spawner=docker)]).profiles.values()
    assert profile.spawner is not None
    assert profile.spawner.kwargs == {
        "name_template": "{prefix}-{username}",
        "image": "nielsbohr/python-notebook",
    }


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (
            {"resource_type": "vm"},
            "t.json:1:16",
            "expected one of bare_metal, container, virtual_machine; found 'vm'",
        ),
        ({"providers": []}, "t.json:1:47", "expected a list of providers"),
        (
            {"providers": ["munich"]},
            "t.json:1:61",
            "there is no provider 'munich'; there are here, pods, vms, oci",
        ),
        ({"providers": ["ec2"]}, "t.json:1:61", "gridcloud provider add ec2 --driver ec2"),
        ({"kwarg": {}}, "t.json:1:", "unknown key; did you mean 'kwargs'?"),
        ({"class": ""}, "t.json:1:", "say which class of spawner"),
        (
            {"class": "sshspawner.sshspawner.SSHSpawner", "kwargs": {"host": 1}},
            "t.json:1:",
            "0.kwargs.host: unknown key",
        ),
        ({"kwargs": {"cmd": "{user.secret}"}}, "t.json:1:", "there is no placeholder {user.secret}"),
        ({"kwargs": {"cmd": ["{endpoint}"]}}, "t.json:1:", "no {endpoint} yet"),
        (
            {"configurer": {"class": "os.system"}},
            "t.json:1:",
            "expected corc.configurer.AnsibleConfigurer; found 'os.system'",
        ),
        ({"configurer": {"class": "corc.configurer.AnsibleConfigurer"}}, "t.json:1:", "name a playbook"),
        (
            {"configurer": {**PLAYS, "options": ["host_variables"]}},
            "t.json:1:",
            "configurer.options: expected keys",
        ),
        (
            {"configurer": {**PLAYS, "options": {"host_settings": {"groups": "x"}}}},
            "t.json:1:",
            "host_settings.groups: unknown key; did you mean 'group'?",
        ),
        (
            {"configurer": {**PLAYS, "options": {"apply_kwargs": {"playbook_paths": "one.yml"}}}},
            "t.json:1:",
            "name a playbook",
        ),
        ({"configurer": {**PLAYS, "colour": 1}}, "t.json:1:", "configurer.colour: unknown key"),
        (
            {"authenticator": {"class": "corc.authenticator.SSHAuthenticator", "kwargs": {"key": 1}}},
            "t.json:1:",
            "authenticator.kwargs.key: unknown key; did you mean 'key_name'?",
        ),
        (
            {"authenticator": {"class": "os.system"}},
            "t.json:1:",
            "expected corc.authenticator.SSHAuthenticator",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(change: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read([template() | change])
    assert words in str(caught.value)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("deployments", "words"),
    [
        ("{}", "d.json: bare_metal: no deployment of this type is for local"),
        ('{"bare_metal": [{"provider": "oci"}]}', "no deployment of this type is for local, which 'T' names"),
        ('{"bare_mettle": []}', "did you mean 'bare_metal'?"),
        ('{"bare_metal": [{"name": "a"}, {"name": "a"}]}', "two of these become the profile 't-here-a'"),
        ("[", "this is no YAML"),
    ],
)
def test_deployments_are_checked_too(deployments: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read([template()], deployments)
    assert words in str(caught.value)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        read([template(colour=1), template(providers="local"), 7])
    assert len(caught.value.details["faults"]) == 3


def test_placeholders_are_names_and_nothing_else() -> None:
    known = {"JUPYTERHUB_USER": "{auth_key}", "auth_key": "KEY"}
    value = {"a": ["{JUPYTERHUB_USER} {auth_key}", 7], "b": "{{ x }} ${HOME} {user.secret} {0} {auth_key!r}"}
    assert fill(value, known) == {
        "a": ["{auth_key} KEY", 7],
        "b": "{{ x }} ${HOME} {user.secret} {0} {auth_key!r}",
    }
    assert [strange for _, strange in strange_placeholders(value, known)] == [
        "user.secret",
        "0",
        "auth_key!r",
    ]
