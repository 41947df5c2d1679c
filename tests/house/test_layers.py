"""The imports keep to the layers of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.house.source import Import, Module, Rules, imports, modules, read_rules

FRONT_DOOR = frozenset({"", "__main__"})


@pytest.fixture(scope="module")
def rules() -> Rules:
    return read_rules()


def test_architecture_lists_layers(rules: Rules) -> None:
    assert rules.layers[:3] == ("errors", "plugins", "settings")
    assert len(rules.layers) == len(set(rules.layers))
    assert {"drivers", "testing"} <= set(rules.layers)
    assert rules.drivers["instances"] >= {"instances.driver", "instances.limits"}
    assert rules.libraries["jupyterhub"] == {"spawner"}


def test_every_package_has_its_layer(rules: Rules) -> None:
    strangers = {module.layer for module in modules()} - set(rules.layers) - FRONT_DOOR
    assert not strangers, f"give {sorted(strangers)} a place in the layers of docs/architecture.md"


def test_imports_go_upwards(rules: Rules) -> None:
    wrong = [
        f"{module.place}:{found.line} imports gridcloud.{found.target}, which stands below it"
        for module in modules()
        if module.layer not in FRONT_DOOR | {"drivers", "testing"}
        for found in imports(module)
        if found.inside and not _is_above(rules, found.target, module)
    ]
    assert not wrong, "\n".join(wrong)


def test_front_door_stays_light() -> None:
    allowed = {"": {"client"}, "__main__": {"cli"}}
    wrong = [
        f"{module.place}:{found.line} imports gridcloud.{found.target}"
        for module in modules()
        if module.name in allowed
        for found in imports(module)
        if found.inside and found.target.partition(".")[0] not in allowed[module.name]
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_a_driver() -> None:
    wrong = [
        f"{module.place}:{found.line} imports gridcloud.{found.target}"
        for module in modules()
        if module.layer not in {"drivers", "testing"}
        for found in imports(module)
        if found.inside and found.target.partition(".")[0] == "drivers"
    ]
    assert not wrong, "a driver is found by its entry point:\n" + "\n".join(wrong)


def test_only_tests_import_testing() -> None:
    wrong = [
        f"{module.place}:{found.line} imports gridcloud.{found.target}"
        for module in modules()
        if module.layer != "testing"
        for found in imports(module)
        if found.inside and found.target.partition(".")[0] == "testing"
    ]
    assert not wrong, "\n".join(wrong)


def test_drivers_import_their_contract_only(rules: Rules) -> None:
    wrong = [
        f"{module.place}:{found.line} imports gridcloud.{found.target}"
        for module in modules()
        if module.layer == "drivers" and module.name.count(".") >= 2
        for found in imports(module)
        if found.inside and not _driver_may(rules, module, found)
    ]
    assert not wrong, "see 'What a driver imports' in docs/architecture.md:\n" + "\n".join(wrong)


def test_outside_libraries_have_one_door(rules: Rules) -> None:
    wrong = [
        f"{module.place}:{found.line} imports {found.target}, which {sorted(rules.libraries[found.target])} may"
        for module in modules()
        if module.layer != "testing"
        for found in imports(module)
        if not found.inside and module.layer not in rules.libraries.get(found.target, {module.layer})
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    known = {module.name for module in modules()}
    graph = {
        module.name: {
            found.target
            for found in imports(module)
            if found.inside and found.target in known and found.target != module.name
        }
        for module in modules()
        if module.name
    }
    circles = [" -> ".join(circle) for circle in _circles(graph)]
    assert not circles, "imports in a circle, those inside functions counted:\n" + "\n".join(circles)


def test_circles_are_found() -> None:
    assert list(_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c"]]
    assert not list(_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}))


def _is_above(rules: Rules, target: str, module: Module) -> bool:
    layer = target.partition(".")[0]
    if layer in {module.layer, ""}:
        return True
    if layer not in rules.layers or module.layer not in rules.layers:
        return False
    return rules.layers.index(layer) < rules.layers.index(module.layer)


def _driver_may(rules: Rules, module: Module, found: Import) -> bool:
    _, kind, name = module.name.split(".", 2)
    if found.target in {"", *rules.drivers.get(kind, ())}:
        return True
    # A driver that was split: its files share the name of the first.
    prefix = f"drivers.{kind}."
    stem = name.partition("_")[0]
    return found.target.startswith(prefix) and found.target.removeprefix(prefix).partition("_")[0] == stem


def _circles(graph: dict[str, set[str]]) -> Iterator[Sequence[str]]:
    """Yield each strongly connected part of more than one module, sorted (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[Sequence[str]]:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1:
                yield sorted(part)

    for name in sorted(graph):
        if name not in order:
            yield from visit(name)
