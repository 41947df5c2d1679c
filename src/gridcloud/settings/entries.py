"""Change single values of the configuration's text, leaving every other line and comment as it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.errors import InvalidSettings
from gridcloud.settings.document import read_document

__all__ = ["read_value", "with_value", "without_value"]

Path = tuple[str, ...]


def read_value(text: str, path: Path) -> Any:
    """Return the plain value at a path of keys, None where there is none."""
    value: Any = read_document("", text).values
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def with_value(text: str, path: Path, value: Any) -> str:
    """Return the text with a value set; of a mapping that is there, only the keys that differ are written anew.

    Raises InvalidSettings where the text is not written as one key per line.
    """
    wanted = _put(read_document("", text).values, path, value)
    changed = _with(text, path, value)
    if _values(changed) != _without_nothing(wanted):
        # A line was shared or an anchor is used elsewhere: the value as a whole may still stand for itself.
        changed = _with(text, path, value, whole=True)
    return _checked(changed, wanted, path)


def without_value(text: str, path: Path) -> str:
    """Return the text without a value; one that is not there is no fault. Raises InvalidSettings as `with_value`."""
    wanted = _put(read_document("", text).values, path, None, remove=True)
    parent, key, value = _find(text, path)
    if key is None:
        return text
    lines = _lines(text)
    if parent is not None and not parent.flow_style:
        del lines[key.start_mark.line : _last_line(value) + 1]
    return _checked("".join(lines), wanted, path)


def _checked(text: str, wanted: dict[str, Any], path: Path) -> str:
    if _values(text) != _without_nothing(wanted):
        raise InvalidSettings(
            f"The {path[0]} are not written as one key per line, so they cannot be changed by a command.",
            remedy="Change the file with an editor: gridcloud config edit",
        )
    return text


def _with(text: str, path: Path, value: Any, *, whole: bool = False) -> str:
    parent, key, old = _find(text, path)
    if key is not None:
        if parent.flow_style:
            return text  # noticed by who compares
        if not whole and isinstance(value, Mapping) and value and _is_block(old):
            return _merged(text, path, old, value)
        lines = _lines(text)
        written = _dump(path[-1], value, key.start_mark.column)
        if len(written) == 1 and _is_word(old):  # what stands behind it on its line stays
            written = [f"{written[0][:-1]}{lines[old.start_mark.line][old.end_mark.column :]}"]
        lines[key.start_mark.line : _last_line(old) + 1] = written
        return "".join(lines)
    if len(path) > 1 and _find(text, path[:-1])[1] is None:
        return _with(text, path[:-1], {path[-1]: value})
    return _inserted(text, path, value)


def _merged(text: str, path: Path, old: Any, value: Mapping[str, Any]) -> str:
    before = read_value(text, path)
    for name in [key.value for key, _ in old.value]:
        if name not in value:
            lines = _lines(text)
            _, key, node = _find(text, (*path, name))
            del lines[key.start_mark.line : _last_line(node) + 1]
            text = "".join(lines)
            if _find(text, path)[2] is None or not _is_block(_find(text, path)[2]):
                return _with(text, path, value, whole=True)  # its last line went
    for name, part in value.items():
        if name not in before or before[name] != part:
            text = _with(text, (*path, name), part)
    return text


def _inserted(text: str, path: Path, value: Any) -> str:
    lines = _lines(text)
    if len(path) == 1:
        return "".join([*lines, *(["\n"] if lines else []), *_dump(path[0], value, 0)])
    _, key, mapping = _find(text, path[:-1])
    if _is_block(mapping):
        indent, at = mapping.value[0][0].start_mark.column, _last_line(mapping) + 1
    elif not getattr(mapping, "value", None):  # `providers:` with nothing below
        at = key.start_mark.line + 1
        indent = key.start_mark.column + 2
        lines[at - 1] = f"{' ' * key.start_mark.column}{key.value}:\n"
    else:
        return text
    lines[at:at] = _dump(path[-1], value, indent)
    return "".join(lines)


def _dump(name: str, value: Any, indent: int) -> list[str]:
    import yaml

    text = yaml.safe_dump(
        {name: value}, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return [" " * indent + line for line in text.splitlines(keepends=True)]


def _find(text: str, path: Path) -> tuple[Any, Any, Any]:
    """The nodes of the mapping that a key is in, of the key, and of its value; None where there is none."""
    import yaml

    parent, key, value = None, None, yaml.compose(text, Loader=yaml.SafeLoader)
    for name in path:
        parent, key, node = value, None, value
        value = None
        for key_node, value_node in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.value == name:
                key, value = key_node, value_node
                break
        if key is None:
            return None, None, None
    return parent, key, value


def _is_block(node: Any) -> bool:
    import yaml

    return isinstance(node, yaml.MappingNode) and bool(node.value) and not node.flow_style


def _is_word(node: Any) -> bool:
    """Whether a value stands on one line, so that nothing but a remark can follow it there."""
    import yaml

    start, end = node.start_mark, node.end_mark
    return isinstance(node, yaml.ScalarNode) and start.line == end.line and start.column < end.column


def _last_line(node: Any) -> int:
    """The line that the node's last word stands on; a node's own end lies beyond the comments that follow it."""
    import yaml

    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        end = node.end_mark
        return int(end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line)
    last = node.value[-1]
    return max(_last_line(part) for part in (last if isinstance(last, tuple) else (last,)))


def _lines(text: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


def _put(values: dict[str, Any], path: Path, value: Any, *, remove: bool = False) -> dict[str, Any]:
    changed = dict(values)
    if len(path) > 1:
        below = changed.get(path[0])
        changed[path[0]] = _put(below if isinstance(below, dict) else {}, path[1:], value, remove=remove)
    elif remove:
        changed.pop(path[0], None)
    else:
        changed[path[0]] = value
    return changed


def _values(text: str) -> dict[str, Any]:
    return _without_nothing(read_document("", text).values)


def _without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sections that hold anything: `providers:` with nothing below says nothing."""
    return {key: value for key, value in values.items() if value not in (None, {})}
