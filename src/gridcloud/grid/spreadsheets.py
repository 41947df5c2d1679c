"""Tables as an OpenDocument spreadsheet (ISO/IEC 26300): texts stay texts, whatever they look like.

Every cell says its type, so that a text which looks like a formula, a link or a date is a text; there is no formula in
the whole file. The same tables make the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias
from xml.sax.saxutils import escape, quoteattr

from gridcloud.errors import InvalidRequest
from gridcloud.grid.reports import Cell

__all__ = ["Table", "write_spreadsheet"]

Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[Cell]]]
"""Headings and rows."""

MIME = "application/vnd.oasis.opendocument.spreadsheet"
MOST = 1_000_000
"""Rows of a sheet, which LibreOffice and Excel can still show."""

_NAMES = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:fo="urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0" '
    'xmlns:number="urn:oasis:names:tc:opendocument:xmlns:datastyle:1.0" '
    'office:version="1.3"'
)
_STYLES = (
    '<number:number-style style:name="hours"><number:number number:decimal-places="2" '
    'number:min-decimal-places="2" number:min-integer-digits="1" number:grouping="true"/></number:number-style>'
    '<style:style style:name="amount" style:family="table-cell" style:data-style-name="hours"/>'
    '<style:style style:name="heading" style:family="table-cell">'
    '<style:text-properties fo:font-weight="bold"/></style:style>'
)
_MANIFEST = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" manifest:version="1.3">'
    f'<manifest:file-entry manifest:full-path="/" manifest:version="1.3" manifest:media-type="{MIME}"/>'
    '<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/>'
    "</manifest:manifest>\n"
)


def write_spreadsheet(tables: Mapping[str, Table]) -> bytes:
    """Return a spreadsheet with a sheet for each table, by name. Raises InvalidRequest for one of too many rows."""
    content = io.StringIO()
    content.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document-content {_NAMES}>')
    content.write(f"<office:automatic-styles>{_STYLES}</office:automatic-styles>")
    content.write("<office:body><office:spreadsheet>")
    for name, (headings, rows) in tables.items():
        if len(rows) > MOST:
            raise InvalidRequest(
                f"{len(rows)} rows are more than a spreadsheet takes.", remedy="Ask for fewer months."
            )
        content.write(f"<table:table table:name={quoteattr(_plain(name))}>")
        content.write("<table:table-header-rows>")
        _write_row(content, headings, ' table:style-name="heading"')
        content.write("</table:table-header-rows>")
        for row in rows:
            _write_row(content, row)
        content.write("</table:table>")
    content.write("</office:spreadsheet></office:body></office:document-content>\n")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        # The type comes first and as it is, so that programs know the file by its beginning (part 2, 3.3).
        archive.writestr(_entry("mimetype", zipfile.ZIP_STORED), MIME)
        archive.writestr(_entry("content.xml"), content.getvalue())
        archive.writestr(_entry("META-INF/manifest.xml"), _MANIFEST)
    return file.getvalue()


def _write_row(content: io.StringIO, row: Sequence[Cell], style: str = "") -> None:
    content.write("<table:table-row>")
    for cell in row:
        if isinstance(cell, str):
            content.write(f'<table:table-cell{style} office:value-type="string">')
            content.write(f"<text:p>{escape(_plain(cell))}</text:p></table:table-cell>")
        else:
            how, number = (
                (' table:style-name="amount"', f"{cell:f}")
                if isinstance(cell, Decimal)
                else (style, str(cell))
            )
            content.write(f'<table:table-cell{how} office:value-type="float" office:value="{number}">')
            content.write(f"<text:p>{number}</text:p></table:table-cell>")
    content.write("</table:table-row>")


def _plain(text: str) -> str:
    """Return a text without what XML cannot hold, or people cannot see."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _entry(name: str, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    return entry
