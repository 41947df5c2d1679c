"""YAML read with the place of every key, safely: no tags that make objects, no key twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Document", "Fault", "read_document"]

NODES = 100_000
"""Nodes of a document at most, an alias counted as often as it is used."""

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in the configuration: where, what, and what to do."""

    place: str
    """``FILE:LINE:COLUMN``, or the name of an environment variable."""
    key: str
    """The full dotted key; empty where the whole file is meant."""
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"


@dataclass(slots=True)
class Document:
    """The plain values of a file and where each key stands."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def place(self, key: Key) -> str:
        """Where the key stands, or the nearest above it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)

    def fault(self, key: Key, message: str) -> None:
        """Note what is wrong with a key."""
        self.faults.append(Fault(self.place(key), ".".join(str(part) for part in key), message))


def read_document(name: str, text: str, *, example: str = "hub:", rows: bool = False) -> Document:
    """Read a YAML mapping. What is wrong with it is in the document's faults; raises nothing.

    ``example``: a key with its value, for who wrote no mapping. ``rows``: it is a list, whose rows become the values of
    the keys "0", "1" and so on.
    """
    import yaml

    document = Document(name)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if isinstance(node, yaml.MappingNode) and not rows:
                document.values = _Walk(document, loader).value((), node)
            elif isinstance(node, yaml.SequenceNode) and rows:
                walk = _Walk(document, loader)
                for number, row in enumerate(node.value):
                    document.places[str(number),] = _spell(name, row)
                    document.values[str(number)] = walk.value((str(number),), row)
            elif node is not None:
                document.faults.append(
                    Fault(
                        _spell(name, node),
                        "",
                        f"expected {'a list of ' if rows else ''}keys with values, such as {example!r}",
                    )
                )
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        document.faults.append(Fault(place, "", f"this is no YAML: {error.problem or error.context}"))
    except (yaml.YAMLError, RecursionError) as error:
        document.faults.append(
            Fault(name, "", f"this is no YAML: {type(error).__name__}: {str(error)[:200]}")
        )
    return document


class _Walk:
    """Turns nodes into values, noting places and faults."""

    def __init__(self, document: Document, loader: Any) -> None:
        self.document = document
        self.loader = loader
        self.left = NODES
        self.open: set[int] = set()

    def value(self, key: Key, node: Any) -> Any:
        import yaml

        self.left -= 1
        if self.left < 0 or id(node) in self.open:
            raise yaml.YAMLError("too large, or an alias within itself")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
                return self._mapping(key, node)
            if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
                places = {(*key, number): item for number, item in enumerate(node.value)}
                self.document.places |= {
                    inner: _spell(self.document.name, item) for inner, item in places.items()
                }
                return [self.value(inner, item) for inner, item in places.items()]
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(key, node)
            self.document.fault(key, f"the tag {node.tag!r} is not allowed")
            return None
        finally:
            self.open.discard(id(node))

    def _mapping(self, key: Key, node: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value if hasattr(name_node, "value") else None
            if not isinstance(name, str):
                self.document.fault(key, "a key has to be a word")
                continue
            inner = (*key, name)
            place = _spell(self.document.name, name_node)
            if name in values:
                self.document.faults.append(
                    Fault(
                        place,
                        ".".join(map(str, inner)),
                        f"given twice; the first is at {self.document.place(inner)}",
                    )
                )
                continue
            self.document.places[inner] = place
            values[name] = self.value(inner, value_node)
        return values

    def _scalar(self, key: Key, node: Any) -> Any:
        import yaml

        try:
            return self.loader.construct_object(node)
        except yaml.constructor.ConstructorError:
            self.document.fault(key, f"the tag {node.tag!r} is not allowed")
        except ValueError as error:  # such as the date 2026-99-99
            self.document.fault(key, f"this value cannot be read: {error}")
        return None


def _spell(name: str, node: Any) -> str:
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
