"""The page of a shared folder: what is in it, and a place to drop files onto."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, select_autoescape

from gridcloud.data.driver import Entry
from gridcloud.data.paths import Names, show, to_url
from gridcloud.data.visits import Visit
from gridcloud.settings.values import format_size

__all__ = ["MOST", "POLICY", "render"]

MOST = 5000
"""Entries that the page shows; of more it says so."""

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none'"


async def render(visit: Visit, path: Names, prefix: str) -> str:
    """Return the page of a folder, as HTML. ``prefix``: what the paths of the share's URLs begin with."""
    entries: list[Entry] = []
    more = False
    if visit.may_read:
        async for batch in visit.scan(path):
            entries += batch
            if len(entries) > MOST:
                more = True
                break
    entries = sorted(entries[:MOST], key=lambda one: (not one.folder, one.name.casefold()))
    lines = [
        {
            "name": show((one.name,))[1:],
            "link": f"{prefix}/{to_url((*path, one.name))}{'/' if one.folder else ''}",
            "folder": one.folder,
            "size": "" if one.folder else format_size(one.size),
            "modified": datetime.fromtimestamp(one.modified, UTC).strftime("%Y-%m-%d %H:%M"),
        }
        for one in entries
    ]
    way = [
        {"name": show((name,))[1:], "link": f"{prefix}/{to_url(path[: number + 1])}/"}
        for number, name in enumerate(path)
    ]
    template = _pages.get_template("folder.html")
    return template.render(
        title=visit.share.name or "Shared folder",
        top=f"{prefix}/",
        way=way,
        lines=lines,
        more=more,
        may_read=visit.may_read,
        may_write=visit.may_write,
        may_change=visit.may_change,
        expires=visit.share.limits.expires,
    )


_pages = Environment(loader=PackageLoader("gridcloud.data", "pages"), autoescape=select_autoescape())
