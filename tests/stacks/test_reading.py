"""Stack files, ours and the prototype's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gridcloud.errors import InvalidSettings, NotFound
from gridcloud.stacks.reading import expand_names, read_definition, read_file, render

PROTOTYPE = """
pools:
  pool01:
    instances: [instance01]
  pool02:
    instances: [instance02, instance03]
instances:
  instance[01-02]:
    provider: {name: libvirt_provider, driver: libvirt}
    settings:
      args:
        - "{{ instance.name }}"
        - /var/lib/images/{{ instance.name }}.qcow2
      kwargs: {memory_size: 2048mib, num_vcpus: 2}
  instance03:
    plan: test_plan
"""

PLAN = """
initializer:
  provider: {name: gen_vm_image}
  settings: {args: ["{{ instance.name }}", 30G], kwargs: {input: "https://example.org/rocky.qcow2"}}
orchestrator:
  provider: {name: libvirt_provider, driver: libvirt}
  settings:
    args: ["{{ instance.name }}", "{{ instance.name }}.qcow2"]
    kwargs: {memory_size: 1gib, num_vcpus: 1}
"""


def test_ranges_keep_what_is_around_them_and_their_width() -> None:
    assert expand_names("node[01-03]") == ["node01", "node02", "node03"]
    assert expand_names("a[9-11]z") == ["a9z", "a10z", "a11z"]
    assert expand_names("[008-010]") == ["008", "009", "010"]
    assert expand_names("plain") == ["plain"]


@pytest.mark.parametrize(
    "name", ["node[3-1]", "node[1-9999]", "node[a-b]", "node[1]", "node[1-2", "n[1-2][1-2]"]
)
def test_what_is_no_range_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettings, match=r"instances\."):
        expand_names(name)


def test_the_prototypes_stacks_and_plans_are_read() -> None:
    definition = read_definition(yaml.safe_load(PROTOTYPE), {"test_plan": yaml.safe_load(PLAN)})
    assert list(definition.instances) == ["instance01", "instance02", "instance03"]
    request = definition.instances["instance02"].request
    assert (request.on, request.cpus, request.memory) == ("libvirt_provider", 2, 2 << 30)
    assert request.image == "/var/lib/images/instance02.qcow2"
    planned = definition.instances["instance03"].request
    assert (planned.on, planned.memory, planned.image) == ("libvirt_provider", 1 << 30, "instance03.qcow2")
    assert definition.pools == {"pool01": ("instance01",), "pool02": ("instance02", "instance03")}


def test_our_own_form() -> None:
    definition = read_definition(
        {
            "plans": {
                "worker": {
                    "request": {"cpus": 2, "memory": "4GiB"},
                    "configure": [{"use": "script", "text": "echo {{instance.name}} {{ instance.index }}"}],
                }
            },
            "instances": {"node[01-02]": {"plan": "worker", "request": {"memory": "8GiB"}}, "gate": None},
            "pools": {"workers": ["node[01-02]"]},
        }
    )
    node = definition.instances["node02"]
    assert (node.request.cpus, node.request.memory) == (2, 8 << 30)
    assert node.configure == ({"use": "script", "text": "echo node02 2"},)
    assert definition.pools["workers"] == ("node01", "node02")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"instance": {}}, "instance is not known"),
        ({"instances": {"a": {"request": {"cpu": 1}}}}, "instances.a.request.cpu"),
        ({"instances": {"a": {"request": {"memory": "4"}}}}, "instances.a.request.memory"),
        ({"instances": {"a": {"plan": "none"}}}, "there is no plan 'none'"),
        ({"instances": {"a": {"settings": {}}}}, "provider"),
        ({"instances": {"a b": {}}}, "a b"),
        ({"instances": {"../a": {}}}, "../a"),
        ({"instances": {"a[1-2]": {}, "a1": {}}}, "an instance a1 already"),
        ({"pools": {"p": ["x"]}}, "pools.p: there is no instance x"),
        ({"instances": {"x": {}}, "pools": {"p": ["x", "x"]}}, "twice"),
        ({"instances": ["a"]}, "must be a mapping"),
        ({"instances": {"a": {"provider": {"name": "p"}, "settings": {"kwargs": {"colour": 1}}}}}, "colour"),
        ({"instances": {"a": {"plan": "p"}}, "plans": {"p": {"configurer": {}}}}, "orchestrator is missing"),
    ],
)
def test_faults_name_their_place(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_definition(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ instance.__class__ }}",
        "{{ instance }}",
        "{{ ''.join(['a'] * 10**9) }}",
        "{{ 9**9**9 }}",
        "{{ instance.secret }}",
        "{{ }}",
    ],
)
def test_templates_evaluate_nothing(text: str) -> None:
    with pytest.raises(InvalidSettings, match="cannot be filled in"):
        render({"a": [{"b": text}]}, {"instance.name": "x"}, "here")


def test_templates_are_filled_in_deeply_and_bounded() -> None:
    value = {"a": ["{{ instance.name }}.qcow2", {"b": "{ {% x %} }", "c": 4, "d": None}]}
    assert render(value, {"instance.name": "vm01"}) == {
        "a": ["vm01.qcow2", {"b": "{ {% x %} }", "c": 4, "d": None}]
    }
    with pytest.raises(InvalidSettings, match="longer than"):
        render("{{ instance.name }}" * 4000, {"instance.name": "x" * 63})


def test_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.yml"):
        read_file(tmp_path / "none.yml")
    bad = tmp_path / "bad.yml"
    for text, words in (
        ("a: [", "no YAML"),
        ("- a", "expected keys"),
        ("a: 1\na: 2", "given twice"),
        ("x" * (1 << 21), "more than"),
    ):
        bad.write_text(text)
        with pytest.raises(InvalidSettings, match=words):
            read_file(bad)
    bad.write_text("instances: {a: {request: {on: cloud}}}")
    assert read_definition(read_file(bad)).instances["a"].request.on == "cloud"
    bad.write_text("")
    assert read_definition(read_file(bad)).instances == {}


def test_the_example_of_the_guide_fits_two_processors(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "stacks.md").read_text()
    (tmp_path / "stack.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    definition = read_definition(read_file(tmp_path / "stack.yaml"))
    assert len(definition.instances) == 4
    assert sum(wish.request.cpus for wish in definition.instances.values()) <= 2
    assert sum(wish.request.memory for wish in definition.instances.values()) <= 1 << 30
