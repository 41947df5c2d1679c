"""A notebook as one page for viewing, in which nothing of the notebook can act on who views it.

A notebook is a program's output, and may be anybody's: its HTML, Markdown, SVG, Javascript and widgets would
run with the rights of the page they are shown in, read what that page may read, send it away, or look like a
log-in. So there are three walls, which overlap:

1. Outputs are kept only in kinds that are shown, and not those that run: no Javascript, no widgets. SVG is
   shown as a picture, in which browsers run nothing.
2. What nbconvert made of each cell is read as HTML by bleach and written anew, with known elements,
   attributes and styles only: no scripts, events, forms, frames, style sheets, positions over the page;
   links by http, https and mailto; pictures that are in the page itself, so that opening it tells nobody.
3. The page carries a policy by which browsers run no scripts, load nothing and send nothing, whatever is in
   it; only that a page leads elsewhere by itself is left to the second. Who serves it should send `POLICY` as
   its header, too: there it also puts the page into a sandbox.

Formulas are shown as they were written, for what draws them is a script. A notebook that is trusted is shown
as nbconvert does: everything in it runs.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Mapping
from typing import Any

import nbformat

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.notebooks import Notebook, language_of

__all__ = ["POLICY", "render_page"]

_format: Any = nbformat  # its functions have no types

POLICY = (
    "sandbox allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""The `Content-Security-Policy` of the page; a page itself cannot ask for the sandbox and the last of
these.
"""
WITHIN = "; ".join(POLICY.split("; ")[1:-1])
LONGEST = 1 << 20
"""Characters of one output that are shown."""
PICTURES = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8", "image/gif": b"GIF8", "image/webp": b"RIFF"}
SHOWN = ("text/html", "image/svg+xml", *PICTURES, "text/markdown", "text/latex", "text/plain")
"""Kinds of outputs that are shown, the best first."""
IN_PAGE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
CELL = re.compile(r'(?=<div [^<>]{0,60}\bclass="cell )')
RAW = re.compile(
    r"(?i)<(?=(?:script|style|template|textarea|title|xmp|iframe|noembed|noframes|noscript|plaintext)\b)"
)
"""Where an element begins whose content is no HTML."""
ATTACHMENT = re.compile(r"(?i)(attachment:)([^)\s\"'>]*)")
SIZE = re.compile(r"[0-9]{1,5}(\.[0-9]{1,4})?(px|%|em|pt)?")
WORDS = re.compile(r"\S+")
TAGS = WORDS.findall(
    "a abbr b blockquote br caption center code col colgroup dd del details div dl dt em figcaption figure"
    " h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table"
    " tbody td tfoot th thead tr tt u ul var"
)
STYLES = WORDS.findall(
    "background-color border border-bottom border-collapse border-color border-left border-right border-style"
    " border-top border-width color display font-family font-size font-style font-weight height"
    " list-style-type margin-left max-width min-width padding padding-left padding-right text-align"
    " text-decoration vertical-align white-space width"
)
"""Styles that stay within their place; none of them may fetch anything, for `url(` is refused."""


def render_page(notebook: Notebook, *, title: str = "Notebook", trusted: bool = False) -> str:
    """Return a notebook as HTML, a page on its own. Raises InvalidRequest when it is no notebook of format 4.

    Half a second for a notebook of a megabyte: not for an event loop.
    """
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise InvalidRequest(
            "This is no notebook of format 4.",
            remedy="Convert it: jupyter nbconvert --to notebook --nbformat 4.",
        )
    if trusted:
        cells = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(notebook["cells"])]
        return _convert({**notebook, "nbformat_minor": 5, "cells": cells}, "lab", title)
    try:
        plain = _plain(notebook)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"This is no notebook: {type(error).__name__}: {error}") from error
    body = _cleaned(_convert(plain, "basic", title))
    return PAGE.format(policy=html.escape(WITHIN), title=html.escape(title), style=STYLE, body=body)


def _convert(notebook: Notebook, template: str, title: str) -> str:
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters.markdown_mistune import InvalidNotebook

    make: Any = HTMLExporter
    exporter = make(template_name=template, embed_images=False, exclude_anchor_links=template != "lab")
    try:
        made, _ = exporter.from_notebook_node(
            _format.from_dict(notebook), resources={"metadata": {"name": title}}
        )
    except InvalidNotebook as error:
        raise InvalidRequest(f"The notebook cannot be shown: {error}.") from error
    return str(made)


def _plain(notebook: Notebook) -> Notebook:
    """The notebook with what is shown, and nothing else: no metadata, attachments or kinds of outputs that
    run.
    """
    language = language_of(notebook)
    lexer = language if re.fullmatch(r"[a-z0-9_+-]{1,30}", language) else "text"
    metadata = {"language_info": {"name": lexer, "pygments_lexer": lexer}}
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        kind, source = cell.get("cell_type"), _text(cell.get("source", ""))[:LONGEST]
        made: dict[str, Any] = {
            "id": f"cell-{number}",
            "metadata": {},
            "cell_type": "markdown",
            "source": source,
        }
        if kind == "code":
            count = cell.get("execution_count")
            outputs = [one for output in cell.get("outputs", ()) if (one := _shown(output))]
            count = count if isinstance(count, int) else None
            made |= {"cell_type": "code", "execution_count": count, "outputs": outputs}
        elif kind == "markdown":
            made |= {"cell_type": "markdown", **_attached(cell, _closed(source))}
        else:
            made |= {"cell_type": "raw"}
        cells.append(made)
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def _attached(cell: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The pictures attached to a cell, and its source, which names none that is not there."""
    found: dict[str, dict[str, str]] = {}
    for name, kinds in (cell.get("attachments") or {}).items():
        for kind in PICTURES:
            if kind in kinds and (made := _datum(kind, _text(kinds[kind]))):
                found[str(name)] = made
    named = re.sub(ATTACHMENT, lambda one: one[0] if one[2] in found else f"no-{one[0]}", source)
    return {"attachments": found, "source": named}


def _shown(output: Mapping[str, Any]) -> dict[str, Any] | None:
    match output.get("output_type"):
        case "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            return {"output_type": "stream", "name": name, "text": _cut(_text(output.get("text", "")))}
        case "error":
            trace = [_cut(str(one)) for one in output.get("traceback", ())][:1000]
            return {"output_type": "error", "ename": "", "evalue": "", "traceback": trace}
        case "display_data" | "execute_result":
            data = output.get("data", {})
            for kind in SHOWN:
                if kind in data and (made := _datum(kind, _text(data[kind]))):
                    return {"output_type": "display_data", "metadata": {}, "data": made}
            left = ", ".join(sorted(map(str, data)))[:200]
            note = {"text/plain": f"[not shown: {left}]"}
            return {"output_type": "display_data", "metadata": {}, "data": note}
    return None


def _datum(kind: str, text: str) -> dict[str, str] | None:
    """An output in one kind, as it is shown; None where it is not what it says it is."""
    if kind == "image/svg+xml":
        source = base64.b64encode(text.encode(errors="replace")).decode()
        return {"text/html": f'<img alt="" src="data:image/svg+xml;base64,{source}">'}
    if kind in PICTURES:
        try:
            content = base64.b64decode(text)
        except (binascii.Error, ValueError):
            return None
        if not content.startswith(PICTURES[kind]):
            return None
        # Written anew: what is put into an attribute then has no characters but these.
        return {kind: base64.b64encode(content).decode()}
    if kind == "text/latex":
        return {"text/plain": _cut(text)}
    if kind == "text/html" and len(text) > LONGEST:
        return None  # half a table is none: what else there is
    if kind in ("text/html", "text/markdown"):
        text = _closed(text)
    return {kind: _cut(text)}


def _cleaned(page: str) -> str:
    from bleach.css_sanitizer import CSSSanitizer
    from bleach.sanitizer import Cleaner

    styles = CSSSanitizer(allowed_css_properties=STYLES)
    allowed: dict[str, Any] = {
        "*": _any_attribute,
        "a": _with(lambda name, value: name == "href" and _is_link(value)),
        "img": _with(
            lambda name, value: name in ("src", "alt", "width", "height") and _is_picture(name, value)
        ),
        "td": _with(lambda name, value: name in ("colspan", "rowspan") and value.isdigit()),
        "th": _with(lambda name, value: name in ("colspan", "rowspan", "scope") and value.isalnum()),
    }
    cleaner = Cleaner(
        tags=TAGS,
        attributes=allowed,
        protocols=["http", "https", "mailto", "data"],
        strip=True,
        strip_comments=True,
        css_sanitizer=styles,
    )
    # Each cell for itself: what one leaves open swallows no other.
    return "".join(str(cleaner.clean(_without_scripts(cell))) for cell in CELL.split(page))


def _without_scripts(page: str) -> str:
    """The page without elements whose text is no text: stripping their tags alone would show it. In one
    pass.
    """
    lowered, kept, at, endless = page.lower(), [], 0, set[str]()
    if len(lowered) != len(page):  # a letter that is two in small: places would differ
        return page
    for found in re.finditer(r"<(script|style|template)\b", lowered):
        name = found[1]
        if found.start() < at or name in endless:
            continue
        end = lowered.find(f"</{name}", found.end())
        if end < 0:
            endless.add(name)
            continue
        kept.append(page[at : found.start()])
        at = lowered.find(">", end) + 1 or len(page)
    return "".join(kept) + page[at:]


def _closed(text: str) -> str:
    """The text, in which no element is begun that swallows what follows it, the next cells too."""
    return (
        RAW.sub("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", text)
        if RAW.search(_without_scripts(text))
        else text
    )


def _with(more: Callable[[str, str], bool]) -> Callable[[str, str, str], bool]:
    return lambda tag, name, value: more(name, value) or _any_attribute(tag, name, value)


def _any_attribute(tag: str, name: str, value: str) -> bool:
    if name == "class":
        # Names of the page's own styles, and of Pygments; a frame's data may look like what it likes.
        return len(value) < 200
    if name == "style":
        return "url(" not in value.lower() and "\\" not in value
    return name in ("title", "align", "lang", "dir") and len(value) < 1000


def _is_link(value: str) -> bool:
    return value.startswith("#") or bool(re.match(r"(?i)(https?://|mailto:)", value))


def _is_picture(name: str, value: str) -> bool:
    if name == "src":
        return IN_PAGE.fullmatch(value) is not None
    return name == "alt" or SIZE.fullmatch(value) is not None


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= LONGEST
        else f"{text[:LONGEST]}\n[… {len(text) - LONGEST:,} characters not shown …]"
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(map(str, value))
    return value if isinstance(value, str) else str(value)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
pre, code { font: 13px/1.4 ui-monospace, monospace; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.input_area, .highlight { background: #f6f8fa; border-radius: 4px; padding: .4rem .6rem; }
.prompt { color: #6a737d; font: 11px ui-monospace, monospace; }
.output_subarea, .rendered_html { overflow-x: auto; padding: .2rem .6rem; contain: paint; }
.output_stderr { background: #fff0ee; }
.cell { margin: .8rem 0; }
table { border-collapse: collapse; }
td, th { border: 1px solid #d0d7de; padding: .2rem .5rem; text-align: right; }
img { max-width: 100%; }
.ansi-red-fg { color: #b31d28; } .ansi-green-fg { color: #176f2c; } .ansi-cyan-fg { color: #0b6e7d; }
.ansi-yellow-fg { color: #8a6100; } .ansi-blue-fg { color: #0349b4; } .ansi-bold { font-weight: bold; }
.k, .kn, .kc, .ow { color: #8250df; } .s1, .s2, .sd, .sa { color: #0a3069; } .c1, .ch { color: #6e7781; }
.mi, .mf { color: #0550ae; } .nf, .nc { color: #953800; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
