"""What a form of HTML can send: for spawners of others that take whatever is sent of their forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from gridcloud.errors import InvalidRequest

__all__ = ["check_fields"]


def check_fields(html: str, fields: Mapping[str, list[Any]]) -> None:
    """Raise InvalidRequest for a field that a form has not, or a value that it does not let one choose."""
    form = _Form()
    form.feed(html)
    form.close()
    for name, values in fields.items():
        found = form.fields.get(name)
        if found is None:
            known = ", ".join(form.fields) or "none"
            raise InvalidRequest(f"The form has no field {name[:60]!r}; there are: {known}.")
        if len(values) > 1 and not found.several:
            raise InvalidRequest(f"{name!r} was given {len(values)} times.")
        for value in values:
            if found.values and (not isinstance(value, str) or value not in found.values):
                raise InvalidRequest(
                    f"{name!r} cannot be {value!r:.60}; there are: {', '.join(sorted(found.values))}."
                )


@dataclass
class _Field:
    values: set[str]
    """What may be chosen; empty: anything."""
    several: bool


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, _Field] = {}
        self._select: _Field | None = None
        self._text: list[str] | None = None
        """Of an option without a value, which is its text."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        name = given.get("name") or ""
        if tag == "select":
            self._select = _Field(set(), "multiple" in given)
            if name:
                self.fields[name] = self._select
        elif tag == "option" and self._select is not None:
            self._end_option()
            if "value" in given:
                self._select.values.add(given["value"] or "")
            else:
                self._text = []
        elif tag in ("input", "textarea", "button") and name:
            self._take(name, (given.get("type") or "").lower(), given.get("value"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("option", "select"):
            self._end_option()
        if tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def _take(self, name: str, kind: str, value: str | None) -> None:
        if kind == "file":
            name = f"{name}_file"  # as JupyterHub names what was uploaded
        box = kind in ("radio", "checkbox")
        found = self.fields.setdefault(name, _Field(set(), kind in ("checkbox", "file")))
        if box:
            found.values.add("on" if value is None else value)

    def _end_option(self) -> None:
        if self._text is not None and self._select is not None:
            self._select.values.add(" ".join("".join(self._text).split()))
        self._text = None
