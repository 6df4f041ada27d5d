"""Pages of results: made of the rows without a difference, and with no measured number typed."""

import re
import statistics

import pytest
from harness import REPOSITORY

TEMPLATES = sorted((REPOSITORY / "benchmarks" / "templates").glob("*.md"))
# What jinja2 fills in, links, code, and numbers of the recipe instead of a measurement.
FILLED = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\]\([^)]*\)|`[^`]*`", re.S)
MEASURED = re.compile(r"± ?[\d.]+|[\d.]+ ?(?:%|images/s|k images|PFLOP|GFLOP|points|MB|GB|times|x\b)")
# That of an interval, published ones and how near they are, and one image of 359.
TYPED = {"95 %", "2.73 PFLOP", "94.08 %", "0.1 points", "0.28 points"}


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks" / "research")
        import pages

        yield pages


def test_they_are_made_of_the_rows(pages):
    made = pages.made()
    names = {str(path.relative_to(REPOSITORY)) for path in made}
    assert {"README.md", "docs/results.md", "docs/techniques.md", "docs/runs.md"} < names
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} differs: run make results"


def test_a_row_changes_the_page(pages, monkeypatch):
    """The test above can fail."""
    rows = pages.read
    changed = lambda path: [{**row, "accuracy_tta": "0.5"} if "accuracy_tta" in row else row for row in rows(path)]  # noqa: E731
    monkeypatch.setattr(pages, "read", changed)
    text = pages.best_of_readme()
    assert text.count("50.00 ± 0.00 %") == 9
    assert "94.84" not in text


def test_runs_of_another_machine_change_no_effect(pages, monkeypatch):
    """techniques.csv may get rows of several machines, whose cores get through more or fewer epochs."""
    before = pages.effect("whitening", "alone"), pages.doubled("alone")
    read = pages.read_csv
    more = lambda path: [*read(path), *({**row, "device": "another", "accuracy_holdout": "0.1", "epochs": "9"}  # noqa: E731
                                        for row in read(path) if row.get("variant") == "none")]  # fmt: skip
    monkeypatch.setattr(pages, "read", more)
    monkeypatch.setattr(pages.techniques, "read", more)
    pages._effects.cache_clear()
    assert (pages.effect("whitening", "alone"), pages.doubled("alone")) == before
    pages._effects.cache_clear()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_no_measured_number_is_typed(template):
    text = FILLED.sub("", template.read_text())
    assert not set(MEASURED.findall(text)) - TYPED
    assert MEASURED.findall("It took 3.4 GB for 91.06 ± 0.2 % at 47 k images/s") == ["3.4 GB", "± 0.2", "47 k images"]


@pytest.mark.parametrize("name", ["step", "stream", "precompute", "startup", "first_step", "winograd"])
def test_medians_are_those_of_the_committed_table(pages, name):
    """The csv has rows of other machines and versions too."""
    lines = (REPOSITORY / "benchmarks" / "results" / f"{name}.md").read_text().splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    assert table
    for contender, median, *_ in table:
        assert pages.middle(name, contender) == median


def test_helpers_say_what_rows_say(pages):
    found = [{"seed": str(seed), "accuracy_tta": f"{0.9 + seed / 100}", "epochs": str(2 + seed)} for seed in range(3)]
    assert pages.score(found) == f"91.00 ± {statistics.stdev([90, 91, 92]):.2f} % (n = 3)"
    assert pages.score(found[:1]) == "90.00 % (n = 1)"
    assert pages.score([]) == ""
    assert pages.each(found) == "90.00, 91.00, 92.00"
    assert pages.span(found, "epochs") == "2.0 to 4.0"
    assert pages.span(found[:1], "epochs") == "2.0"
    assert pages.gain(found, [{**row, "accuracy_tta": "0.5"} for row in found], "accuracy_tta").startswith("**+41.00 ±")
