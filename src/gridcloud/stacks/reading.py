"""Read a stack file: our own form, and the form of corc's stacks and plans (https://github.com/rasmunk/corc).

::

    plans:
      worker:
        request: {cpus: 2, memory: 4GiB, time: 8h}
        configure: [{use: script, text: "echo {{ instance.name }} >name"}]
    instances:
      node[01-03]: {plan: worker}
      gateway: {request: {cpus: 1, memory: 1GiB, on: campus}}
    pools:
      workers: {instances: [node01, node02, node03]}

``name[01-03]`` stands for name01, name02 and name03. Texts may hold ``{{ instance.name }}`` and
``{{ instance.index }}`` (its place in the range, from 1), which are filled in for each instance. Nothing is evaluated:
these two are replaced, and anything else between double braces is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gridcloud.errors import InvalidSettings, NotFound
from gridcloud.settings.document import read_document
from gridcloud.stacks.model import MOST, Definition

__all__ = ["expand_names", "read_definition", "read_file", "render"]

LARGEST = 1 << 20
LONGEST = 64 << 10
TOP = ("instances", "pools", "plans")
OURS = ("plan", "request", "configure")
PROTOTYPE = ("provider", "settings")
STEPS = ("initializer", "orchestrator", "configurer", "networker")
"""The parts of a plan of the prototype."""

_BRACES = re.compile(r"\{\{\s*(?P<name>.*?)\s*\}\}", re.DOTALL)
_RANGE = re.compile(r"(?P<head>[^\[\]]*)\[(?P<first>\d+)-(?P<last>\d+)\](?P<tail>[^\[\]]*)")


def read_file(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping. Raises NotFound, InvalidSettings with the place of each fault."""
    try:
        text = path.read_text()
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read: {error}.") from error
    if len(text) > LARGEST:
        raise InvalidSettings(f"{path} has more than {LARGEST} characters.")
    document = read_document(str(path), text)
    if document.faults:
        raise InvalidSettings("\n".join(str(fault) for fault in document.faults))
    return document.values


def read_definition(
    document: Mapping[str, Any], plans: Mapping[str, Mapping[str, Any]] | None = None
) -> Definition:
    """Return what a stack's document means. ``plans``: further ones by name, beside those in the document.

    Raises InvalidSettings that names the place of what is wrong.
    """
    _check_keys("", document, TOP)
    known = {**_mapping(document, "plans"), **(plans or {})}
    instances: dict[str, Any] = {}
    for key, entry in _mapping(document, "instances").items():
        for index, name in enumerate(expand_names(key), 1):
            if name in instances:
                raise InvalidSettings(f"instances.{key}: there is an instance {name} already.")
            instances[name] = _wish(key, entry or {}, known, {"instance.name": name, "instance.index": index})
            if len(instances) > MOST:
                raise InvalidSettings(f"A stack has {MOST} instances at most.")
    pools = {name: _pool(name, entry) for name, entry in _mapping(document, "pools").items()}
    try:
        return Definition.model_validate({"instances": instances, "pools": pools})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        text = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidSettings(f"{place + ': ' if place else ''}{text}") from error


def expand_names(name: str) -> list[str]:
    """Return the names that ``node[01-03]`` stands for, with what is around the range and the width of its numbers.

    Raises InvalidSettings for a range that is none, or has more than 1000 numbers.
    """
    if "[" not in name and "]" not in name:
        return [name]
    match = _RANGE.fullmatch(name)
    if match is None:
        raise InvalidSettings(f"instances.{name}: that is no range.", remedy="Write node[01-03].")
    first, last = int(match["first"]), int(match["last"])
    if last < first or last - first >= MOST:
        raise InvalidSettings(
            f"instances.{name}: a range goes upwards, over {MOST} numbers at most.",
            remedy="Write node[01-03].",
        )
    width = len(match["first"])
    return [f"{match['head']}{number:0{width}d}{match['tail']}" for number in range(first, last + 1)]


def render(value: Any, variables: Mapping[str, Any], place: str = "") -> Any:
    """Return a value with every text in it filled in, in lists and mappings too. ``variables`` by what stands between
    the braces. Raises InvalidSettings for one that there is not, and for a text of more than 64 KiB."""
    if isinstance(value, str):
        return _render(value, variables, place)
    if isinstance(value, Mapping):
        return {key: render(item, variables, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, variables, f"{place}[{index}]") for index, item in enumerate(value)]
    return value


def _render(text: str, variables: Mapping[str, Any], place: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match["name"] not in variables:
            known = ", ".join(f"{{{{ {name} }}}}" for name in variables)
            raise InvalidSettings(
                f"{place}: {match.group()!r:.120} cannot be filled in.", remedy=f"Known are: {known}."
            )
        return str(variables[match["name"]])

    filled = _BRACES.sub(value, text)
    if len(filled) > LONGEST:
        raise InvalidSettings(f"{place}: {text!r:.120} becomes longer than {LONGEST} characters.")
    return filled


def _wish(key: str, entry: Any, plans: Mapping[str, Any], instance: Mapping[str, Any]) -> dict[str, Any]:
    place = f"instances.{key}"
    if not isinstance(entry, Mapping):
        raise InvalidSettings(f"{place}: it must be a mapping with {', '.join(OURS)}.")
    _check_keys(place, entry, (*OURS, *PROTOTYPE))
    merged: dict[str, Any] = {}
    if name := entry.get("plan"):
        if name not in plans:
            there = ", ".join(plans) or "none"
            raise InvalidSettings(
                f"{place}.plan: there is no plan {name!r:.100} (there are: {there}).",
                remedy="Write it under 'plans:', or name its file: --plan NAME=FILE.",
            )
        merged = _plan(f"plans.{name}", plans[name])
    if "provider" in entry or "settings" in entry:
        if not entry.get("provider"):
            raise InvalidSettings(f"{place}.provider is missing.", remedy="Name the provider.")
        merged = _merge(merged, {"request": dict(_prototype_request(place, entry))})
    merged = _merge(merged, {part: entry[part] for part in ("request", "configure") if part in entry})
    filled: dict[str, Any] = render(merged, instance, place)
    return filled


def _plan(place: str, plan: Any) -> dict[str, Any]:
    if not isinstance(plan, Mapping):
        raise InvalidSettings(f"{place}: it must be a mapping with {', '.join(OURS[1:])}.")
    if not any(part in plan for part in STEPS):
        _check_keys(place, plan, OURS[1:])
        return dict(plan)
    _check_keys(place, plan, STEPS)
    if not plan.get("orchestrator"):
        raise InvalidSettings(f"{place}.orchestrator is missing.", remedy="Name the provider there.")
    request = dict(_prototype_request(f"{place}.orchestrator", plan["orchestrator"]))
    source = (plan.get("initializer") or {}).get("settings") or {}
    image = (source.get("kwargs") or {}).get("input")
    if image and "image" not in request:
        request["image"] = image
    configurer = plan.get("configurer")
    if configurer is None:
        return {"request": request}
    return {"request": request, "configure": [_prototype_configurer(f"{place}.configurer", configurer)]}


_SIZES = {"memory_size": "memory", "memory": "memory", "disk_size": "disk"}
_COUNTS = {"num_vcpus": "cpus", "vcpus": "cpus", "cpus": "cpus", "gpus": "gpus"}


def _prototype_request(place: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a request's fields from ``provider: {name}`` and ``settings: {args: [name, image], kwargs: {…}}``."""
    _check_keys(place, entry, ("provider", "settings", "plan"))
    provider = entry.get("provider")
    name = provider.get("name") if isinstance(provider, Mapping) else provider
    if not isinstance(name, str) or not name:
        raise InvalidSettings(f"{place}.provider.name is missing.", remedy="Name the provider.")
    yield "on", name
    settings = entry.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise InvalidSettings(f"{place}.settings: it must hold args and kwargs.")
    _check_keys(f"{place}.settings", settings, ("args", "kwargs"))
    words = settings.get("args") or []
    if len(words) > 1:
        yield "image", words[1]
    for key, value in (settings.get("kwargs") or {}).items():
        if key in _SIZES:
            yield _SIZES[key], _size(value)
        elif key in _COUNTS:
            yield _COUNTS[key], value
        elif key not in ("template_path", "extra_tp_values"):
            known = ", ".join((*_SIZES, *_COUNTS))
            raise InvalidSettings(
                f"{place}.settings.kwargs.{key} means nothing here.",
                remedy=f"Known are: {known}; take it out.",
            )


def _size(value: Any) -> Any:
    """Return a size as we write it: 2048mib is 2048MiB."""
    match = (
        re.fullmatch(r"(?P<number>[\d.]+)\s*(?P<unit>[kmgt])i?b?", value.strip().lower())
        if isinstance(value, str)
        else None
    )
    return f"{match['number']}{match['unit'].upper()}iB" if match else value


def _prototype_configurer(place: str, entry: Any) -> dict[str, Any]:
    name = ((entry or {}).get("provider") or {}).get("name") if isinstance(entry, Mapping) else None
    keywords = ((entry.get("settings") or {}).get("kwargs") or {}) if isinstance(entry, Mapping) else {}
    if name in ("ansible", "AnsibleConfigurer") and "playbook" in keywords:
        return {"use": "ansible", "playbook": keywords["playbook"]}
    raise InvalidSettings(
        f"{place}: the configurer {name!r} of the prototype works on image files before a machine is made.",
        remedy="Configure the machine instead: leave it out and write 'configure:' with ansible, script or packages.",
    )


def _pool(name: str, entry: Any) -> list[Any]:
    names = entry.get("instances") if isinstance(entry, Mapping) else entry
    if isinstance(entry, Mapping):
        _check_keys(f"pools.{name}", entry, ("instances",))
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise InvalidSettings(f"pools.{name}: it must be a list of names of instances.")
    return [one for word in names for one in expand_names(word)]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    if isinstance(base.get("request"), Mapping) and isinstance(over.get("request"), Mapping):
        merged["request"] = {**base["request"], **over["request"]}
    return merged


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key) or {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InvalidSettings(f"{key}: it must be a mapping of names.")
    return found


def _check_keys(place: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            text = f"{place}.{key}" if place else str(key)
            raise InvalidSettings(f"{text} is not known.", remedy=f"Known are: {', '.join(known)}.")
