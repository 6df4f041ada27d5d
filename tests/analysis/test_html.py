"""Pages: untrusted text is escaped, and a page needs no other file."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fastconv.analysis.article.page import Section
from fastconv.analysis.html import SCRIPT as PAGE_SCRIPT
from fastconv.analysis.html import Cell, Figure, Table, write_page
from fastconv.system.errors import InputError

SCRIPT = "<script>alert('a & b')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;"


def test_text_from_elsewhere_is_escaped_everywhere(tmp_path):
    """Class names, file names and errors may hold markup: in cells, attributes, captions, headings and the title."""
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "figure.png")
    figure = Figure(tmp_path / "figure.png", alt=f'"{SCRIPT}', caption=SCRIPT)
    table = Table([SCRIPT], [[SCRIPT], [Cell(SCRIPT, "bad")]], sortable=True)
    write_page(
        tmp_path / "page.html",
        "article.html",
        title=SCRIPT,
        findings=[SCRIPT],
        sections=[Section(SCRIPT, [SCRIPT], table, [figure])],
    )
    page = (tmp_path / "page.html").read_text()
    assert SCRIPT not in page
    assert page.count(ESCAPED) == 10
    assert f'alt="&#34;{ESCAPED}"' in page
    assert page.count("<script>") == page.count("</script>") == 1, "that of the page itself"
    assert f'<span class="bad">{ESCAPED}</span>' in page


def test_a_page_needs_nothing_else(tmp_path):
    write_page(tmp_path / "page.html", "base.html", title="title", findings=[])
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "addEventListener" in page
    assert "prefers-color-scheme" in page


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_page(tmp_path / "file" / "page.html", "base.html", title="title", findings=[])


def test_a_column_of_words_is_aligned_to_the_left():
    rows = [
        ["1", "best", "1,910", "-", "± 0.2 %", "+0.5 (+0.1 to +0.9 over the images)"],
        ["b", Cell("a longer verdict of several words", "good"), "-", "-", "+1", "+0.1"],
    ]
    table = Table(["run", "verdict", "images/s", "none", "gain", "interval"], rows)
    assert [table.is_text(at) for at in range(6)] == [False, True, False, False, False, True]
    assert table.classes("best", 1) == "text"
    assert table.classes(rows[1][1], 1) == "text words"
    assert table.classes("1,910", 2) == ""
    assert table.classes("+0.1", 5) == "text", "its column has sentences, whose lines begin at the left"


@pytest.mark.parametrize(("width", "size"), [(500, "small"), (700, "medium"), (1000, "large")])
def test_a_figure_is_as_wide_as_its_letters_need(tmp_path, width, size):
    Image.new("RGB", (width, 10)).save(tmp_path / "a.png")
    assert Figure(tmp_path / "a.png", "", "").size == size


# A table as the page's script sees it, whose first column is sorted by a click; prints the cells from top to bottom.
CLICK = """
const rows = CELLS.map((text) => ({cells: [{textContent: text}]}));
const header = {addEventListener: (event, listener) => { header[event] = listener; }, removeAttribute: () => {}};
const body = {rows: rows, append: (...sorted) => { body.rows = sorted; }};
const table = {tHead: {rows: [{cells: [header]}]}, tBodies: [body]};
globalThis.document = {querySelectorAll: (which) => which === "table.sortable" ? [table] : []};
SCRIPT
header.click();
console.log(JSON.stringify(body.rows.map((row) => row.cells[0].textContent)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize(
    "rising",
    [
        ["900.0 ± 5.1", "3,216.8 ± 12.0", "10,033.5 ± 1.0", "-", ""],
        ["6.2 of 25", "12.5 of 25", "25.0 ± 0.1 of 25"],
        ["-1.50 ± 0.10", "+0.30", "+1.00 ± 0.50"],
        ["10 of them", "2 of them", "a name", "b of c"],
    ],
)
def test_cells_with_a_spread_are_sorted_by_their_numbers(rising):
    script = CLICK.replace("CELLS", json.dumps(rising[::-1])).replace("SCRIPT", PAGE_SCRIPT)
    ended = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == rising
