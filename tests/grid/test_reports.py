"""Reports of the ledger: sums that are exact, and files in which a partner's name is a name and nothing else."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gridcloud.errors import DriverUnavailable, InvalidRequest
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.keys import PrivateKey, institution_of
from gridcloud.federation.ledger import Claim, Entry, Standing, seal
from gridcloud.federation.wishes import Capacity
from gridcloud.grid.plots import draw_report, label_of
from gridcloud.grid.reports import (
    COLUMNS,
    RECORD_COLUMNS,
    Line,
    Report,
    find_records,
    make_report,
    record_cells,
    report_cells,
    write_csv,
)
from gridcloud.grid.spreadsheets import write_spreadsheet

KEYS = {name: PrivateKey(bytes([number]) * 32) for number, name in enumerate("abc", 1)}
A, B, C = (institution_of(KEYS[name].public) for name in "abc")
HOUR = 3_600_000
NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOSTILE = '=HYPERLINK("http://evil","x") <b>&$x^{$ ../../etc'
NAMES = {A: "Ours", B: "University of B", C: HOSTILE}


def entry(
    lender: str, borrower: str, hours: float, *, month: int = 3, lease: str = "x-1", standing: str = "agreed"
) -> Entry:
    began = milliseconds(datetime(2026, month, 1, tzinfo=UTC))
    claim = Claim(
        lease=lease,
        part=0,
        lender=institution_of(KEYS[lender].public),
        borrower=institution_of(KEYS[borrower].public),
        user="-ada",
        capacity=Capacity(millicores=1500, memory=4096, gpus=1),
        began=began,
        ended=began + round(hours * HOUR),
    )
    answer = seal(claim, KEYS[borrower]) if standing == "agreed" else None
    why = "it was never handed over" if standing == "disputed" else ""
    return Entry(claim=claim, lender=seal(claim, KEYS[lender]), borrower=answer, dispute=why)


ENTRIES = [
    entry("a", "b", 1 / 3, lease="x-1"),
    entry("a", "b", 1 / 3, lease="x-2"),
    entry("a", "b", 1 / 3, lease="x-3"),
    entry("b", "a", 2, lease="x-4"),
    entry("a", "b", 5, lease="x-5", standing="disputed"),
    entry("a", "c", 8, month=4, lease="x-6"),
    entry("c", "a", 1, month=4, lease="x-7", standing="open"),
    entry("b", "c", 100, lease="x-8"),
]


def report(since: str = "", until: str = "") -> Report:
    return make_report(ENTRIES, A, NAMES, NOW, since=since, until=until)


def test_sums_by_month_and_partner() -> None:
    found = report()
    assert [(line.month, line.institution) for line in found.lines] == [("2026-03", B), ("2026-04", C)]
    march = found.lines[0]
    assert march.name == "University of B"
    assert march.agreed.given.cpu_hours == Decimal("1.5"), (
        "thirds of an hour, added up before they are rounded"
    )
    assert march.agreed.given.gpu_hours == 1
    assert march.agreed.given.gb_hours == Decimal("4.294967")
    assert march.agreed.taken.cpu_hours == 3
    assert march.agreed.entries == 4
    assert (march.disputed.given.cpu_hours, march.disputed.entries) == (Decimal("7.5"), 1)
    assert (found.lines[1].open.taken.cpu_hours, found.lines[1].open.entries) == (Decimal("1.5"), 1)
    assert [line.month for line in found.months] == ["2026-03", "2026-04"]
    assert [line.institution for line in found.partners] == [C, B], "most first"
    assert found.total.agreed.given.cpu_hours == Decimal("13.5")
    assert found.favours[B] > 0
    assert Report.model_validate_json(found.model_dump_json()) == found


def test_months_can_be_chosen() -> None:
    assert [line.month for line in report(since="2026-04").lines] == ["2026-04"]
    assert [line.month for line in report(until="2026-03").lines] == ["2026-03"]
    none = report(since="2027-01")
    assert (none.lines, none.total) == ((), Line())
    assert set(none.favours) == {B, C}, "what is owed is of all times"
    for wrong in ("2026", "2026-13", "2026-3", "march"):
        with pytest.raises(InvalidRequest, match="no month"):
            report(since=wrong)


def test_an_entry_counts_once_and_as_agreed() -> None:
    doubled = [
        entry("a", "b", 1, standing="open"),
        entry("a", "b", 1),
        entry("a", "b", 1, standing="disputed"),
    ]
    found = make_report(doubled, A, NAMES, NOW)
    assert found.total.agreed.entries == 1
    assert found.total.open.entries == found.total.disputed.entries == 0


def test_records() -> None:
    found = find_records(ENTRIES, A, NAMES, partner=C)
    assert [one.lease for one in found] == ["x-7", "x-6"]
    assert (found[0].standing, found[0].lender_name, found[0].began) == (
        Standing.OPEN,
        HOSTILE,
        datetime(2026, 4, 1, tzinfo=UTC),
    )
    assert len(find_records(ENTRIES, A, NAMES)) == len(ENTRIES) - 1, "not what others lend to each other"


def test_csv_holds_no_formula() -> None:
    lines = [row for line in report().lines for row in report_cells(line)]
    rows = list(csv.DictReader(io.StringIO(write_csv(COLUMNS, lines))))
    assert [(row["month"], row["standing"]) for row in rows] == [
        *(("2026-03", "agreed"), ("2026-03", "disputed")),
        *(("2026-04", "agreed"), ("2026-04", "open")),
    ]
    assert rows[0]["given_cpu_hours"] == "1.500000"
    assert rows[2]["name"] == f"'{HOSTILE}"
    records = write_csv(RECORD_COLUMNS, map(record_cells, find_records(ENTRIES, A, NAMES)))
    assert {row["user"] for row in csv.DictReader(io.StringIO(records))} == {"'-ada"}
    for text in ("=1", "+1", "-1", "@x", "\t=1", " =1", "\r=1", "\uff1d1", "|x"):
        assert write_csv(["x"], [[text]]).splitlines()[1].lstrip('"').startswith("'"), ascii(text)
    assert write_csv(["x"], [["a=1"], [""], [Decimal("-1.5")]]) == 'x\na=1\n""\n-1.5\n'


def test_spreadsheet_holds_texts_and_numbers_only() -> None:
    rows = [row for line in report().lines for row in report_cells(line)]
    data = write_spreadsheet({"Months": (COLUMNS, rows), "Odd": (["x"], [["\x00\u202e\ud800a"], [3]])})
    assert data == write_spreadsheet(
        {"Months": (COLUMNS, rows), "Odd": (["x"], [["\x00\u202e\ud800a"], [3]])}
    ), "the same tables make the same file"
    assert data[30:84] == b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["mimetype", "content.xml", "META-INF/manifest.xml"]
        root = ET.fromstring(archive.read("content.xml"))  # noqa: S314 - what we wrote
        ET.fromstring(archive.read("META-INF/manifest.xml"))  # noqa: S314
    names = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert "a" not in names, "no links"
    assert not [key for one in root.iter() for key in one.attrib if key.endswith("}formula")]
    sheets = [one for one in root.iter() if one.tag.endswith("}table")]
    texts = [
        ["".join(cell.itertext()) for cell in row] for row in sheets[0].iter() if row.tag.endswith("row")
    ]
    assert texts[0] == list(COLUMNS)
    assert texts[3][2] == HOSTILE, "no apostrophe is needed where the type says that it is text"
    cell = [one for one in sheets[0].iter() if one.tag.endswith("cell")][len(COLUMNS) + 5]
    assert [value for key, value in cell.attrib.items() if key.endswith("}value")] == ["1.500000"]
    assert "".join(sheets[1].itertext()) == "x\ufffd\ufffd\ufffda3"


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = draw_report(report(), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written), "no file is named after a partner"
    assert [path.name for path in written] == ["months.svg", "partners.svg"]
    for path in written:
        names = {one.tag.rpartition("}")[2] for one in ET.parse(path).iter()}  # noqa: S314
        assert not names & {"script", "a", "b", "image", "foreignObject"}
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in draw_report(report(), tmp_path)] == before
    draw_report(make_report([], A, {}, NOW), tmp_path)


def test_plots_of_many_partners_and_odd_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    odd = ["$", "$\\frac{$", "_hidden", "大学", "a" * 200, "\n<script>", "", "\u202e"]
    keys = [PrivateKey(bytes([number]) * 32) for number in range(10, 40)]
    names = {institution_of(key.public): odd[number % len(odd)] for number, key in enumerate(keys)}
    template = entry("a", "b", 1).claim
    entries = []
    for key in keys:
        claim = template.model_copy(update={"borrower": institution_of(key.public)})
        entries.append(Entry(claim=claim, lender=seal(claim, KEYS["a"]), borrower=seal(claim, key)))
    found = make_report(entries, A, {A: "$\\oops$", **names}, NOW)
    assert len(draw_report(found, tmp_path)) == 2


def test_who_takes_anothers_name_is_told_apart() -> None:
    mine, other = (Line(institution=who, name=name) for who, name in ((A, "Uni"), (B, "uni")))
    assert label_of(mine, [mine, other]) == f"Uni ({A[:8]})"
    assert label_of(mine, [mine]) == "Uni"
    assert label_of(Line(institution=C), [mine]) == f"({C[:8]})"


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An installation without the extra: None in sys.modules is how Python itself says that there is none.
    for name in [
        *(one for one in sys.modules if one.startswith("matplotlib.")),
        "matplotlib",
        "matplotlib.figure",
    ]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DriverUnavailable, match=r"gridcloud\[reports\]"):
        draw_report(report(), tmp_path)
    assert not list(tmp_path.iterdir())
